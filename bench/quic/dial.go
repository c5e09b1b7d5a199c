//go:build go1.24

package main

import (
	"context"
	"crypto/tls"

	"github.com/quic-go/quic-go"
)

type connection = *quic.Conn

func dial(ctx context.Context, peer string, config *tls.Config, early bool) (connection, error) {
	options := options()
	if early {
		return quic.DialAddrEarly(ctx, peer, config, options)
	}
	return quic.DialAddr(ctx, peer, config, options)
}

func sendDatagram(c connection, payload []byte) error { return c.SendDatagram(payload) }

func receiveDatagram(ctx context.Context, c connection) ([]byte, error) {
	return c.ReceiveDatagram(ctx)
}

func usedEarly(c connection) bool { return c.ConnectionState().Used0RTT }

func untilComplete(c connection) { <-c.HandshakeComplete() }
