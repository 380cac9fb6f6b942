"""What a word names: a reference first, else an ID."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.base.errors import ConflictError, NotFoundError, UserError
from wasmlet.images.image import StoredImage
from wasmlet.images.naming import named

FIRST, SECOND = (f"sha256:{digits * 32}" for digits in ("ab", "ac"))


def image(reference: str, digest: str) -> StoredImage:
    return StoredImage(reference, digest, 1, "")


ONE = image("example.test/one:v1", FIRST)
AGAIN = image("example.test/again:v1", FIRST)
TWO = image("example.test/two:v1", SECOND)
LIKE_AN_ID = image("docker.io/library/acacacac:latest", FIRST)
ODD = image("of another tool", FIRST)


@pytest.mark.parametrize(
    ("images", "word", "found"),
    [
        ([ONE, TWO], "example.test/one:v1", [ONE]),
        ([ONE, TWO], FIRST, [ONE]),
        ([ONE, TWO], FIRST.removeprefix("sha256:"), [ONE]),
        ([ONE, TWO], "abab", [ONE]),
        ([ONE, TWO], "sha256:acacac", [TWO]),
        ([ONE, AGAIN, TWO], f"example.test/again@{FIRST}", [AGAIN]),
        ([LIKE_AN_ID, TWO], "acacacac", [LIKE_AN_ID]),
        ([ODD, TWO], "of another tool", [ODD]),
    ],
)
def test_a_reference_or_an_id_is_found(images: list[StoredImage], word: str, found: list[StoredImage]) -> None:
    assert named(images, word) == found


@pytest.mark.parametrize(
    ("word", "error", "text"),
    [
        ("abab", ConflictError, "abab has 2 references: example.test/one:v1, example.test/again:v1"),
        ("beef", NotFoundError, "image beef is not in the store"),
        ("aba", NotFoundError, "docker.io/library/aba:latest is not"),
        (f"example.test/two@{FIRST}", NotFoundError, "is not in the store"),
        ("example.test/none", NotFoundError, "example.test/none:latest is not"),
        ("No Name", UserError, "No Name"),
    ],
)
def test_what_names_none_is_said(word: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        named([ONE, AGAIN, TWO], word)


def test_an_id_may_stand_for_all_its_references() -> None:
    assert named([ONE, AGAIN, TWO], "abab", every=True) == [ONE, AGAIN]
    near = image("example.test/near:v1", f"sha256:abab{'0' * 60}")
    with pytest.raises(ConflictError, match="begins the IDs of 2 images"):
        named([ONE, near], "abab", every=True)


@given(st.text(max_size=20))
def test_any_word_is_an_answer(word: str) -> None:
    with contextlib.suppress(UserError):
        assert named([ONE, TWO], word)
