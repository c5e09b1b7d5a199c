//go:build !go1.24

package main

import (
	"context"
	"crypto/tls"

	"github.com/quic-go/quic-go"
)

type connection = quic.Connection

func dial(ctx context.Context, peer string, config *tls.Config, early bool) (connection, error) {
	if early {
		return quic.DialAddrEarlyContext(ctx, peer, config, options())
	}
	return quic.DialAddrContext(ctx, peer, config, options())
}

func sendDatagram(c connection, payload []byte) error { return c.SendMessage(payload) }

func receiveDatagram(ctx context.Context, c connection) ([]byte, error) { return c.ReceiveMessage() }

func usedEarly(c connection) bool { return c.ConnectionState().TLS.Used0RTT }

func untilComplete(c connection) {
	if early, ok := c.(quic.EarlyConnection); ok {
		<-early.HandshakeComplete().Done()
	}
}
