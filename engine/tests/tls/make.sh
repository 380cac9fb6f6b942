#!/usr/bin/env bash
# Makes the authority of the tests, a server's certificate of it, and one that nobody has signed; for a hundred years.
set -euo pipefail
cd "$(dirname "$0")"
key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500)
openssl req -x509 "${key[@]}" -keyout authority.key -out authority.pem -subj "/CN=wasmlet tests" \
  -addext basicConstraints=critical,CA:TRUE
for name in server stranger; do
  openssl req "${key[@]}" -keyout $name.key -out $name.csr -subj "/CN=server.test"
  signer=(-CA authority.pem -CAkey authority.key)
  [ $name = server ] || signer=(-signkey stranger.key)
  openssl x509 -req -in $name.csr "${signer[@]}" -days 36500 -out $name.pem \
    -extfile <(printf 'subjectAltName=DNS:server.test\nbasicConstraints=CA:FALSE\n')
done
rm ./*.csr authority.key authority.srl 2>/dev/null || true
