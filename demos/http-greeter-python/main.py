"""Greets whoever asks: `/NAME`, with the word of the variable GREETING."""

from urllib.parse import unquote

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.environment import get_environment
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam


class IncomingHandler(exports.IncomingHandler):
    """What the component exports: each request has an instance of its own."""

    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        """Answer a request."""
        name = unquote((request.path_with_query() or "/").partition("?")[0][1:]) or "world"
        # Not os.environ: that is what the environment was when the component was made.
        greeting = dict(get_environment()).get("GREETING", "Hello")
        print("greeting", name, flush=True)
        response = OutgoingResponse(Fields.from_list([("content-type", b"text/plain; charset=utf-8")]))
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            stream.blocking_write_and_flush(f"{greeting}, {name}!\n".encode())
        OutgoingBody.finish(body, None)
