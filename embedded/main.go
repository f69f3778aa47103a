// Command touchstream-broker is the Kafka broker of Touchstream's demo, replays and tests: one node of
// franz-go's kfake on the loopback interface. It is not meant for production and keeps no durability promise.
//
// It prints the port it listens on as one line on standard output once it serves, and it ends when its
// standard input closes. The parent holds the other end of that pipe, so the broker cannot outlive it,
// not even when the parent is killed with a signal that it cannot handle.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

const (
	exitFailed = 1
	exitUsage  = 2

	// What Apache Kafka defaults to, and kfake does not: its hour would mean that compaction never
	// runs in a demo or a test.
	defaultCleanerBackoff = 15 * time.Second
)

type settings struct {
	port           int
	dataDir        string
	cleanerBackoff time.Duration
	verbose        bool
}

func main() {
	s := parse()
	cluster, err := kfake.NewCluster(options(s)...)
	if err != nil {
		fmt.Fprintf(os.Stderr, "touchstream-broker: cannot start on port %d: %v\n", s.port, err)
		os.Exit(exitFailed)
	}
	fmt.Println(portOf(cluster))
	waitForEnd()
	cluster.Close()
}

func parse() settings {
	var s settings
	flag.IntVar(&s.port, "listen", 0, "port on 127.0.0.1; 0 takes a free one")
	flag.StringVar(&s.dataDir, "data-dir", "", "keep topics, offsets and transactions here; empty keeps them in memory")
	flag.DurationVar(&s.cleanerBackoff, "cleaner-backoff", defaultCleanerBackoff, "time between two rounds of compaction and retention")
	flag.BoolVar(&s.verbose, "verbose", false, "log warnings on standard error")
	flag.Parse()
	if flag.NArg() > 0 || s.port < 0 || s.port > 65535 || s.cleanerBackoff < time.Millisecond {
		fmt.Fprintln(os.Stderr, "touchstream-broker: no arguments, a port of 0 to 65535 and a backoff of at least 1ms are expected")
		flag.Usage()
		os.Exit(exitUsage)
	}
	return s
}

// options leaves AllowAutoTopicCreation out on purpose: topics come from `touchstream topics apply`, and a
// metadata request for a misspelt one must fail here as it does on a well kept cluster.
func options(s settings) []kfake.Opt {
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.ClusterID("touchstream-embedded"),
		kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms":     strconv.FormatInt(s.cleanerBackoff.Milliseconds(), 10),
			"default.replication.factor": "1",
		}),
	}
	if s.port != 0 {
		opts = append(opts, kfake.Ports(s.port))
	}
	if s.dataDir != "" {
		opts = append(opts, kfake.DataDir(s.dataDir))
	}
	if s.verbose {
		opts = append(opts, kfake.WithLogger(kfake.BasicLogger(os.Stderr, kfake.LogLevelWarn)))
	}
	return opts
}

func portOf(cluster *kfake.Cluster) string {
	address := cluster.ListenAddrs()[0]
	return address[strings.LastIndex(address, ":")+1:]
}

// waitForEnd returns on SIGTERM, SIGINT or the end of standard input, whichever is first.
func waitForEnd() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	orphaned := make(chan struct{})
	go func() {
		// Content is of no interest; only the end is. An error counts as the end.
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(orphaned)
	}()
	select {
	case <-signals:
	case <-orphaned:
	}
}
