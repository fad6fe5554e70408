// Command countersign-cluster is a Kubernetes control plane for tests, in one program.
//
// Its first argument says what to be: one of the real servers (etcd, kube-apiserver, kube-controller-manager,
// kube-scheduler) or kubectl, which then reads its own usual flags, or "up", which makes keys and tokens, starts the
// servers and ends them when its standard input ends. Under the name kubectl it is kubectl. It must not know anything of
// Countersign.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

func main() {
	if filepath.Base(os.Args[0]) == "kubectl" {
		serveKubectl()
	}
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: countersign-cluster up|etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubectl …")
		os.Exit(2)
	}
	role := os.Args[1]
	os.Args = append([]string{role}, os.Args[2:]...)
	switch role {
	case "up":
		exit(up(os.Args[1:]))
	case "etcd":
		exit(serveEtcd(os.Args[1:]))
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "kubectl":
		serveKubectl()
	default:
		fmt.Fprintf(os.Stderr, "countersign-cluster: no such role: %q\n", role)
		os.Exit(2)
	}
}

func serveKubectl() {
	util.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
	os.Exit(0)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "countersign-cluster:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
