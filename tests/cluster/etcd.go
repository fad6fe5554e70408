package main

import (
	"errors"
	"flag"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// serveEtcd is etcd with those of its own flags that up uses, so that a separate etcd can stand in for it.
func serveEtcd(arguments []string) error {
	flags := flag.NewFlagSet("etcd", flag.ContinueOnError)
	directory := flags.String("data-dir", "", "where etcd keeps its data")
	client := flags.String("listen-client-urls", "", "where clients connect")
	advertised := flags.String("advertise-client-urls", "", "what clients are told")
	peer := flags.String("listen-peer-urls", "", "where peers would connect")
	noFsync := flags.Bool("unsafe-no-fsync", false, "leave writing to the system: a test's data need not survive a crash of the machine")
	if err := flags.Parse(arguments); err != nil {
		return err
	}

	config := embed.NewConfig()
	config.Dir = *directory
	config.UnsafeNoFsync = *noFsync
	config.LogLevel = "warn"
	config.WarningUnaryRequestDuration = time.Second
	config.QuotaBackendBytes = 8 << 30
	var err error
	if config.ListenClientUrls, err = one(*client); err != nil {
		return err
	}
	if config.AdvertiseClientUrls, err = one(*advertised); err != nil {
		return err
	}
	if config.ListenPeerUrls, err = one(*peer); err != nil {
		return err
	}
	config.AdvertisePeerUrls = config.ListenPeerUrls
	config.InitialCluster = config.InitialClusterFromName(config.Name)

	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer server.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
		return nil
	case <-server.Server.StopNotify():
		return errors.New("etcd stopped by itself")
	case err := <-server.Err():
		return err
	}
}

func one(address string) ([]url.URL, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	return []url.URL{*parsed}, nil
}
