package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

type answer struct {
	Version string `json:"version"`
	Host    string `json:"host"`
	Path    string `json:"path"`
}

// newHandler answers every path with the version, and /healthz by readiness.
func newHandler(version, host string, ready *atomic.Bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			http.Error(w, "ending", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer{Version: version, Host: host, Path: r.URL.Path})
	})
	return mux
}

// serve runs the server until SIGTERM or SIGINT, then ends without losing a request.
func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	address := flags.String("addr", ":8080", "address to listen on")
	drain := flags.Duration("drain", 3*time.Second, "how long to go on serving after a signal")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	version := os.Getenv("VERSION")
	if version == "" {
		version = "v1"
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	var ready atomic.Bool
	ready.Store(true)
	server := &http.Server{
		Addr:              *address,
		Handler:           newHandler(version, host, &ready),
		ReadHeaderTimeout: 10 * time.Second,
	}
	signalled, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-signalled.Done():
	}
	// Endpoints are withdrawn while the pod ends: requests that are on their
	// way still find a server.
	ready.Store(false)
	time.Sleep(*drain)
	end, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	if err := server.Shutdown(end); err != nil {
		return err
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
