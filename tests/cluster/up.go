package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
)

// The signal that ends a child with its parent is bound to the thread that started the child. The main goroutine starts
// every child, so it stays on the main thread, which lives as long as the process.
func init() { runtime.LockOSThread() }

// up starts a cluster, prints one line of JSON that says how to reach it, and then obeys the lines of its standard
// input, answering each with "ok" or "error: …". It ends with its standard input, or by SIGINT or SIGTERM, and takes
// everything that it started with it.
func up(arguments []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	var options options
	flags.IntVar(&options.nodes, "nodes", 1, "how many fake nodes to make")
	flags.StringVar(&options.kwok, "kwok", "", "the kwok program, which plays kubelet on the fake nodes")
	flags.StringVar(&options.assets, "assets", os.Getenv("KUBEBUILDER_ASSETS"), "a directory with kube-apiserver and etcd to use instead of our own")
	flags.StringVar(&options.keep, "keep-logs", "", "a directory that the servers' logs are moved to at the end")
	person := flags.Bool("for-a-person", false, "say in words how to reach the cluster")
	if err := flags.Parse(arguments); err != nil {
		return err
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	lines := readLines(os.Stdin)

	cluster, err := newCluster(options)
	if err != nil {
		return err
	}
	defer cluster.end()
	if err := cluster.start(stop); err != nil {
		return fmt.Errorf("%w\n%s", err, cluster.lastWords())
	}
	if *person {
		fmt.Printf("export KUBECONFIG=%s\n", cluster.address().Kubeconfig)
		fmt.Fprintln(os.Stderr, "The cluster is up; Ctrl-C ends it.")
	} else if err := json.NewEncoder(os.Stdout).Encode(cluster.address()); err != nil {
		return err
	}

	for {
		select {
		case <-stop:
			return nil
		case line, open := <-lines:
			if !open {
				return nil
			}
			if err := cluster.obey(strings.Fields(line)); err != nil {
				fmt.Printf("error: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
			} else {
				fmt.Println("ok")
			}
		case name := <-cluster.exited:
			if err := cluster.revive(name); err != nil {
				return err
			}
		}
	}
}

// obey carries out one line of standard input.
func (c *cluster) obey(words []string) error {
	switch {
	case len(words) == 2 && words[0] == "kill":
		return c.kill(words[1])
	case len(words) == 2 && words[0] == "start":
		return c.startAgain(words[1])
	case len(words) == 2 && words[0] == "pause":
		return c.signal(words[1], syscall.SIGSTOP)
	case len(words) == 2 && words[0] == "resume":
		return c.signal(words[1], syscall.SIGCONT)
	case len(words) == 3 && words[0] == "route":
		c.egress.route(words[1], words[2])
		return nil
	case len(words) == 2 && words[0] == "save":
		return c.save(words[1])
	case len(words) == 2 && words[0] == "load":
		return c.load(words[1])
	default:
		return errors.New("expected: kill|start|pause|resume SERVER, route POD_IP:PORT HOST:PORT, save NAME, load NAME")
	}
}

func readLines(input io.Reader) <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(input); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	return lines
}
