package main

import (
	"crypto/rand"
	"strings"
)

// newToken makes a bootstrap token: six letters or digits that name it, and sixteen that are the secret.
func newToken() string {
	text := strings.ToLower(rand.Text())
	return text[:6] + "." + text[6:22]
}

func splitToken(token string) (id, secret string) {
	id, secret, _ = strings.Cut(token, ".")
	return id, secret
}
