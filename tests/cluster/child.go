package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// child is one server: a process that is meant to run (wanted) or not.
type child struct {
	name      string
	program   string
	arguments []string
	process   *exec.Cmd
	ended     chan struct{}
	wanted    bool
}

func (c *child) dead() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// spawn starts a server for the first time.
func (c *cluster) spawn(name string, arguments []string) error {
	program, role, err := c.program(name)
	if err != nil {
		return err
	}
	if role {
		arguments = append([]string{name}, arguments...)
	}
	child := &child{name: name, program: program, arguments: arguments}
	c.children[name] = child
	return c.run(child)
}

// program finds what plays a server: kwok; what the assets hold; else this very program, told its role.
func (c *cluster) program(name string) (path string, role bool, err error) {
	if name == kwok {
		return c.options.kwok, false, nil
	}
	if c.options.assets != "" {
		path := filepath.Join(c.options.assets, name)
		if _, err := os.Stat(path); err == nil {
			return path, false, nil
		}
		if name == etcd || name == apiServer {
			return "", false, fmt.Errorf("KUBEBUILDER_ASSETS is set to %s, which holds no %s", c.options.assets, name)
		}
	}
	path, err = os.Executable()
	return path, true, err
}

func (c *cluster) run(child *child) error {
	log, err := os.OpenFile(c.path(child.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	child.process = exec.Command(child.program, child.arguments...)
	child.process.Stdout, child.process.Stderr = log, log
	child.process.Dir = c.directory
	// In a group of its own: Ctrl-C is for us, and we end the servers.
	child.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := child.process.Start(); err != nil {
		return fmt.Errorf("could not start %s: %w", child.program, err)
	}
	child.wanted = true
	child.ended = make(chan struct{})
	go func(process *exec.Cmd, ended chan struct{}) {
		_ = process.Wait()
		close(ended)
		c.exited <- child.name
	}(child.process, child.ended)
	return nil
}

func (c *cluster) find(name string) (*child, error) {
	child, known := c.children[name]
	if !known {
		return nil, fmt.Errorf("no such server: %s", name)
	}
	return child, nil
}

// kill ends a server and returns when it has ended.
func (c *cluster) kill(name string) error {
	child, err := c.find(name)
	if err != nil {
		return err
	}
	if !child.wanted {
		return nil
	}
	child.wanted = false
	if !child.dead() {
		if err := child.process.Process.Kill(); err != nil && !child.dead() {
			return err
		}
		<-child.ended
	}
	return nil
}

// startAgain starts a server that was stopped and, when it is the API server, waits until that is ready.
func (c *cluster) startAgain(name string) error {
	child, err := c.find(name)
	if err != nil {
		return err
	}
	if !child.wanted {
		if err := c.run(child); err != nil {
			return err
		}
	}
	if name != apiServer {
		return nil
	}
	return c.until(nil, "the API server is ready", c.api.ready)
}

func (c *cluster) signal(name string, signal syscall.Signal) error {
	child, err := c.find(name)
	if err != nil {
		return err
	}
	return child.process.Process.Signal(signal)
}

// revive starts a server that ended by itself, and says so: a controller manager may end when the API server was away.
func (c *cluster) revive(name string) error {
	child := c.children[name]
	if !child.wanted || !child.dead() {
		return nil
	}
	fmt.Fprintf(os.Stderr, "countersign-cluster: %s ended by itself (%s) and is started again\n", name, child.process.ProcessState)
	return c.run(child)
}
