//go:build !go1.24

package main

import "errors"

func (r *run) etcd() error {
	return errors.New("etcd needs Go 1.24, whose standard library has HTTP/2 without TLS")
}
