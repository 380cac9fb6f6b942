"""Images: a reference goes in, a local Wasm file with its configuration comes out. Works without a cluster.

Nouns:

- A **reference** (`reference`) names an image: `[registry/]repository[:tag][@digest]`, or `file:/path` on this machine.
- **Credentials** (`credentials`) are arguments: parsed from docker's file format, chosen by registry and repository.
  **Sources** (`sources`) know more when an image is pulled: docker's `helpers`, the kubelet's `plugins`.
- The **registry** (`registry`) speaks the OCI distribution API through the `transport` (connections, TLS, time limits,
  redirects) and `authentication` (basic, bearer tokens). aiohttp is imported at the first request, not before.
- A **manifest** (`manifest`) lists blobs; the **layout** (`layouts`, `configuration`) says which blob is the module,
  which are layers of files, and how the image starts. An **application** (`application`) has several components with
  routes of their own: Spin's, from a locked application (`spin`) or from a file of the image (`spin_files`). Pure.
- A **tree** (`trees`) is what layers unpack to, once: a helper process (`unpacking`, held by `landlock`) reads them
  (`layers`, `layer_bytes`) into a value (`filesystem`, pure), from which each container's root is made (`laying`) and
  its program found (`programs`).
- The **store** (`store`, `ingest`) is an OCI image layout directory, shared by processes, readable by other tools.
- **Trust** (`trust`) asks, before an image is used, who vouches for it: a **policy** (`policy`, `patterns`) says who
  has to, **evidence** (`evidence`) fetches signatures, `signatures` and `keys` (`ed25519ph`) say what they are worth,
  or sigstore does (`keyless`).
- **Access** (`access`) says which pods may use an image that is here already.
- The **collection** (`collection`) decides which unused images go, `usage` says what all take, `naming` which of them a
  word names; **archives** (`archives`) are images as one file.
- **Local files** (`local`) are modules used where they lie.
- **Downloads** (`downloads`) bring manifests and blobs from a registry into the store; `base.flights` lets many callers
  share one.
- The **library** (`library`) is the facade that pods and the command line use; what it gives is in `image`.

In: reference, pull policy, credentials, `Settings`. Out: `Image` (a file, its digest, its configuration) or an error
whose reason is one that Kubernetes knows: `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`,
`SignatureValidationFailed`.
"""
