package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	etcd              = "etcd"
	apiServer         = "kube-apiserver"
	controllerManager = "kube-controller-manager"
	kubeScheduler     = "kube-scheduler"
	kwok              = "kwok"

	// Kept apart from each other, and wide enough that every pod of a large fleet has an address of its own.
	serviceRange = "10.0.0.0/16"
	podRange     = "10.64.0.1/10"

	serviceAccountIssuer = "https://kubernetes.default.svc.cluster.local"
)

type options struct {
	nodes              int
	kwok, assets, keep string
}

// cluster is the servers of one cluster, all on loopback, with their state in one temporary directory.
type cluster struct {
	options   options
	directory string
	secrets   secrets
	api       client
	etcdURL   string
	egress    *egress
	children  map[string]*child
	exited    chan string
}

// address is what up prints.
type address struct {
	Server     string `json:"server"`
	Kubeconfig string `json:"kubeconfig"`
	Socket     string `json:"socket"`
	CAFile     string `json:"caFile"`
	Directory  string `json:"directory"`
	Token      string `json:"token"`
}

func newCluster(options options) (*cluster, error) {
	directory, err := os.MkdirTemp("", "cs-cluster-")
	if err != nil {
		return nil, err
	}
	c := &cluster{options: options, directory: directory, children: map[string]*child{}, exited: make(chan string, 8)}
	if c.secrets, err = makeSecrets(directory); err != nil {
		c.end()
		return nil, err
	}
	if c.egress, err = listenEgress(c.path("egress.sock")); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

func (c *cluster) path(name string) string { return filepath.Join(c.directory, name) }

func (c *cluster) address() address {
	return address{
		Server:     c.api.server,
		Kubeconfig: c.path("kubeconfig"),
		Socket:     c.path("api.sock"),
		CAFile:     c.secrets.caFile,
		Directory:  c.directory,
		Token:      c.secrets.token,
	}
}

// start brings everything up; when it returns, nodes are Ready and service accounts are made.
func (c *cluster) start(stop <-chan os.Signal) error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	c.etcdURL = "http://127.0.0.1:" + ports[0]
	c.api = newClient("https://127.0.0.1:"+ports[2], c.secrets)
	for _, configuration := range []struct{ name, text string }{
		{"kubeconfig", kubeconfig(c.api.server, c.secrets)},
		{"egress.yaml", egressConfiguration(c.path("egress.sock"))},
		{"audit.yaml", auditPolicy},
	} {
		if err := os.WriteFile(c.path(configuration.name), []byte(configuration.text), 0o600); err != nil {
			return err
		}
	}

	if err := serveDoor(c.path("api.sock"), c.api); err != nil {
		return err
	}
	if err := c.spawn(etcd, etcdArguments(c.path("etcd"), c.etcdURL, "http://127.0.0.1:"+ports[1])); err != nil {
		return err
	}
	if err := c.spawn(apiServer, c.apiServerArguments(ports[2])); err != nil {
		return err
	}
	if err := c.until(stop, "the API server is ready", c.api.ready); err != nil {
		return err
	}
	if err := c.spawn(controllerManager, c.controllerManagerArguments()); err != nil {
		return err
	}
	if err := c.spawn(kubeScheduler, []string{"--kubeconfig=" + c.path("kubeconfig"), "--leader-elect=false", "--secure-port=0",
		"--kube-api-qps=1000", "--kube-api-burst=2000"}); err != nil {
		return err
	}
	if c.options.kwok != "" {
		if err := c.spawn(kwok, []string{"--kubeconfig=" + c.path("kubeconfig"), "--manage-all-nodes=true", "--cidr=" + podRange}); err != nil {
			return err
		}
		if err := c.api.makeNodes(c.options.nodes); err != nil {
			return err
		}
		if err := c.until(stop, "all nodes are Ready", func() error { return c.api.nodesReady(c.options.nodes) }); err != nil {
			return err
		}
	}
	return c.until(stop, "service accounts are made", func() error {
		return c.api.exists("/api/v1/namespaces/default/serviceaccounts/default")
	})
}

func etcdArguments(directory, client, peer string) []string {
	return []string{"--data-dir=" + directory, "--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--unsafe-no-fsync=true"}
}

func (c *cluster) apiServerArguments(port string) []string {
	return []string{
		"--etcd-servers=" + c.etcdURL,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + port,
		"--tls-cert-file=" + c.secrets.servingCertificate, "--tls-private-key-file=" + c.secrets.servingKey,
		"--client-ca-file=" + c.secrets.caFile,
		"--token-auth-file=" + c.secrets.tokenFile,
		"--service-account-issuer=" + serviceAccountIssuer,
		"--service-account-key-file=" + c.secrets.serviceAccountKey,
		"--service-account-signing-key-file=" + c.secrets.serviceAccountKey,
		"--service-cluster-ip-range=" + serviceRange,
		"--authorization-mode=Node,RBAC",
		"--allow-privileged=true",
		"--egress-selector-config-file=" + c.path("egress.yaml"),
		"--audit-policy-file=" + c.path("audit.yaml"), "--audit-log-path=" + c.path("audit.jsonl"),
	}
}

func (c *cluster) controllerManagerArguments() []string {
	return []string{
		"--kubeconfig=" + c.path("kubeconfig"), "--leader-elect=false", "--secure-port=0",
		"--service-account-private-key-file=" + c.secrets.serviceAccountKey, "--root-ca-file=" + c.secrets.caFile,
		"--kube-api-qps=1000", "--kube-api-burst=2000",
		// kwok's nodes have no Leases and report every ten minutes, and a node once given up is never Ready again: no test waits
		// for that.
		"--node-monitor-grace-period=24h",
	}
}

// until waits for a condition, as long as the servers live.
func (c *cluster) until(stop <-chan os.Signal, what string, condition func() error) error {
	const patience = 2 * time.Minute
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not so after %s: %s: %w", patience, what, err)
		}
		select {
		case name := <-c.exited:
			if child := c.children[name]; child.wanted && child.dead() {
				return fmt.Errorf("%s ended before %s", name, what)
			}
		case <-stop:
			return errors.New("stopped")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// save copies etcd's data aside under a name: a backup. etcd is away for a moment; what it has written is whole, as it is
// after a crash of the process.
func (c *cluster) save(name string) error {
	if err := c.kill(etcd); err != nil {
		return err
	}
	if err := copyTree(c.path("etcd"), c.saved(name)); err != nil {
		return err
	}
	if err := c.startAgain(etcd); err != nil {
		return err
	}
	return c.until(nil, "the API server is ready", c.api.ready)
}

// load puts a saved copy in place of etcd's data: what was written since is lost, and resource versions go back.
func (c *cluster) load(name string) error {
	if _, err := os.Stat(c.saved(name)); err != nil {
		return err
	}
	for _, server := range []string{apiServer, etcd} {
		if err := c.kill(server); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(c.path("etcd")); err != nil {
		return err
	}
	if err := copyTree(c.saved(name), c.path("etcd")); err != nil {
		return err
	}
	if err := c.startAgain(etcd); err != nil {
		return err
	}
	return c.startAgain(apiServer)
}

func (c *cluster) saved(name string) string { return c.path("saved-" + filepath.Base(name)) }

func copyTree(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(from))
}

// lastWords is the end of each server's log.
func (c *cluster) lastWords() string {
	var words strings.Builder
	for name := range c.children {
		text, err := os.ReadFile(c.path(name + ".log"))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&words, "--- %s (%s lines)\n%s\n", name, strconv.Itoa(len(lines)), strings.Join(lines[max(0, len(lines)-8):], "\n"))
	}
	return words.String()
}

// end kills the servers, whose state is thrown away.
func (c *cluster) end() {
	for name := range c.children {
		_ = c.kill(name)
	}
	if c.options.keep != "" {
		logs, _ := filepath.Glob(c.path("*.log"))
		for _, log := range logs {
			_ = os.Rename(log, filepath.Join(c.options.keep, filepath.Base(log)))
		}
	}
	if err := os.RemoveAll(c.directory); err != nil {
		fmt.Fprintln(os.Stderr, "countersign-cluster: left behind:", err)
	}
}
