package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// egress is the way by which the API server reaches pods and services (its "cluster" egress): a proxy that knows for
// each pod's address which process of this machine plays it. Without it the API server would refuse them: it proxies to
// no loopback address, and kwok's pods have addresses that lead nowhere.
type egress struct {
	mutex  sync.Mutex
	routes map[string]string
}

func egressConfiguration(socket string) string {
	return fmt.Sprintf(`apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport: {uds: {udsName: %s}}
`, socket)
}

func listenEgress(socket string) (*egress, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	e := &egress{routes: map[string]string{}}
	go func() { _ = http.Serve(listener, http.HandlerFunc(e.connect)) }()
	return e, nil
}

// route makes what is sent to a pod's address and port arrive at another address.
func (e *egress) route(pod, destination string) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.routes[pod] = destination
}

func (e *egress) connect(answer http.ResponseWriter, request *http.Request) {
	e.mutex.Lock()
	destination, known := e.routes[request.Host]
	e.mutex.Unlock()
	if request.Method != http.MethodConnect || !known {
		http.Error(answer, "no process plays "+request.Host, http.StatusBadGateway)
		return
	}
	server, err := net.Dial("tcp", destination)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadGateway)
		return
	}
	defer server.Close()
	client, buffered, err := answer.(http.Hijacker).Hijack()
	if err != nil {
		http.Error(answer, err.Error(), http.StatusInternalServerError)
		return
	}
	defer client.Close()
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(server, buffered); done <- struct{}{} }()
	go func() { _, _ = io.Copy(client, server); done <- struct{}{} }()
	<-done
}
