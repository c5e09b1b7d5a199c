//go:build !go1.24

package main

import (
	"errors"

	"github.com/xtaci/kcp-go/v5"
)

func gcm(key []byte) (kcp.BlockCrypt, error) {
	return nil, errors.New("this version of kcp-go has no AES-GCM")
}
