package main

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
)

// serveDoor lets tests speak plain HTTP with the API server over a Unix socket, as the administrator unless a request
// brings a token of its own or impersonates somebody. Answers other than watches come whole, with their length.
func serveDoor(socket string, api client) error {
	server, err := url.Parse(api.server)
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(server)
			if request.Out.Header.Get("Authorization") == "" {
				request.Out.Header.Set("Authorization", "Bearer "+api.token)
			}
			// Else the transport would ask for compression and unpack, and a watch would wait for a full block.
			request.Out.Header.Set("Accept-Encoding", "identity")
		},
		ModifyResponse: func(answer *http.Response) error {
			if answer.Request.URL.Query().Get("watch") != "" || answer.StatusCode == http.StatusSwitchingProtocols {
				return nil
			}
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				return err
			}
			answer.Body.Close()
			answer.Body = io.NopCloser(bytes.NewReader(body))
			answer.ContentLength = int64(len(body))
			answer.Header.Set("Content-Length", strconv.Itoa(len(body)))
			answer.TransferEncoding = nil
			return nil
		},
		Transport:     api.http.Transport,
		FlushInterval: -1,
		// Whoever asked is told (502); that the API server is away at times is what tests are about.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	go func() { _ = http.Serve(listener, proxy) }()
	return nil
}
