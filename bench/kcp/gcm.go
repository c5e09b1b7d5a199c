//go:build go1.24

package main

import "github.com/xtaci/kcp-go/v5"

// gcm is AES-GCM, which kcp-go has since it needs Go 1.24.
func gcm(key []byte) (kcp.BlockCrypt, error) {
	return kcp.NewAESGCMCrypt(key)
}
