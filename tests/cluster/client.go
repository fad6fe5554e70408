package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// client is the administrator at the API server.
type client struct {
	server, token string
	http          *http.Client // whose time limit holds for us alone, not for those at the door
}

func newClient(server string, s secrets) client {
	return client{server: server, token: s.token, http: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.authority, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: nodeMakers},
	}}
}

func (c client) call(method, path string, body []byte) ([]byte, error) {
	request, err := http.NewRequest(method, c.server+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Content-Type", "application/json")
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	return text, nil
}

func (c client) ready() error { return c.exists("/readyz") }

func (c client) exists(path string) error {
	_, err := c.call(http.MethodGet, path, nil)
	return err
}

const nodeMakers = 8

// makeNodes makes node-0, node-1 and so on; kwok answers for them.
func (c client) makeNodes(count int) error {
	numbers := make(chan int)
	failures := make(chan error, nodeMakers)
	var makers sync.WaitGroup
	for range nodeMakers {
		makers.Go(func() {
			var first error
			for number := range numbers {
				name := "node-" + strconv.Itoa(number)
				node := fmt.Sprintf(`{"apiVersion":"v1","kind":"Node","metadata":{"name":%q,"annotations":{"kwok.x-k8s.io/node":"fake"},`+
					`"labels":{"kubernetes.io/hostname":%q,"kubernetes.io/os":"linux","kubernetes.io/arch":"amd64"}}}`, name, name)
				if _, err := c.call(http.MethodPost, "/api/v1/nodes", []byte(node)); err != nil && first == nil {
					first = err
				}
			}
			failures <- first
		})
	}
	for number := range count {
		numbers <- number
	}
	close(numbers)
	makers.Wait()
	close(failures)
	var all error
	for failure := range failures {
		all = errors.Join(all, failure)
	}
	return all
}

// nodesReady is nil when that many nodes are Ready and take pods.
func (c client) nodesReady(wanted int) error {
	text, err := c.call(http.MethodGet, "/api/v1/nodes?resourceVersion=0", nil)
	if err != nil {
		return err
	}
	var list struct {
		Items []struct {
			Spec   struct{ Taints []struct{ Key string } }
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	ready := 0
	for _, node := range list.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == "Ready" && condition.Status == "True" && len(node.Spec.Taints) == 0 {
				ready++
			}
		}
	}
	if ready < wanted {
		return fmt.Errorf("%d of %d are", ready, wanted)
	}
	return nil
}

// freePorts finds ports below those that the system hands to outgoing connections, so that no connection takes one
// between now and when its server binds it.
func freePorts(count int) ([]string, error) {
	const lowest, highest, attempts = 20000, 32000, 1000
	var ports []string
	for range attempts {
		if len(ports) == count {
			return ports, nil
		}
		port := strconv.Itoa(lowest + rand.IntN(highest-lowest))
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		// Held until all are found, so that none is found twice.
		defer listener.Close()
		ports = append(ports, port)
	}
	return nil, errors.New("no free ports on loopback")
}
