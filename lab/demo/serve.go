package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// answer is what every path is answered with, with any status.
type answer struct {
	Version string `json:"version"`
	Pod     string `json:"pod"`
	Path    string `json:"path"`

	// What was asked, for requests with ?show=headers.
	Method  string      `json:"method,omitempty"`
	Host    string      `json:"host,omitempty"`
	Headers http.Header `json:"headers,omitempty"`
}

// counts is what /counts answers: the requests that came to this pod.
type counts struct {
	Requests int            `json:"requests"`
	Statuses map[string]int `json:"statuses"`
	Hosts    map[string]int `json:"hosts"`
}

// faults are rates between 0 and 1; a request meets at most one of the statuses.
type faults struct {
	statuses  map[int]float64
	delay     time.Duration
	delayRate float64
}

// status is the one that a request is answered with, by a number between 0 and 1.
func (f faults) status(chance float64) int {
	for status, rate := range f.statuses {
		if chance < rate {
			return status
		}
		chance -= rate
	}
	return http.StatusOK
}

func (f faults) check() error {
	sum := 0.0
	for status, rate := range f.statuses {
		if status < 200 || status > 599 || rate < 0 {
			return fmt.Errorf("--status-rate %d=%v: want a status from 200 to 599, a rate from 0", status, rate)
		}
		sum += rate
	}
	if sum > 1 || f.delay < 0 || f.delayRate < 0 || f.delayRate > 1 {
		return errors.New("rates are shares of all requests: from 0 to 1, and 1 together")
	}
	return nil
}

// setStatusRate reads one value of --status-rate.
func (f faults) setStatusRate(text string) error {
	name, value, _ := strings.Cut(text, "=")
	status, err := strconv.Atoi(name)
	if err != nil {
		return errors.New("want STATUS=RATE, as 503=0.2")
	}
	f.statuses[status], err = strconv.ParseFloat(value, 64)
	return err
}

// handler answers every path but /healthz and /counts, which meet no faults.
type handler struct {
	version string
	pod     string
	faults  faults
	ready   atomic.Bool

	lock   sync.Mutex
	counts counts
}

func newHandler(version, pod string, f faults) *handler {
	h := &handler{version: version, pod: pod, faults: f}
	h.counts = counts{Statuses: map[string]int{}, Hosts: map[string]int{}}
	h.ready.Store(true)
	return h
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		if !h.ready.Load() {
			http.Error(w, "ending", http.StatusServiceUnavailable)
		}
	case "/counts":
		write(w, http.StatusOK, h.counted())
	default:
		h.answer(w, r)
	}
}

func (h *handler) answer(w http.ResponseWriter, r *http.Request) {
	status := h.meet(r.Context(), r.Host)
	if r.Context().Err() != nil {
		return
	}
	a := answer{Version: h.version, Pod: h.pod, Path: r.URL.Path}
	if r.URL.Query().Get("show") == "headers" {
		a.Method, a.Host, a.Headers = r.Method, r.Host, r.Header
	}
	write(w, status, a)
}

// meet counts a request, lets it wait if it is to wait, and says what it is answered with.
func (h *handler) meet(ctx context.Context, host string) int {
	status := h.faults.status(rand.Float64())
	h.count(host, status)
	if h.faults.delay > 0 && rand.Float64() < h.faults.delayRate {
		select {
		case <-time.After(h.faults.delay):
		case <-ctx.Done():
		}
	}
	return status
}

func (h *handler) count(host string, status int) {
	h.lock.Lock()
	defer h.lock.Unlock()
	h.counts.Requests++
	h.counts.Statuses[strconv.Itoa(status)]++
	h.counts.Hosts[host]++
}

// counted is a copy, so that it can be written while requests come.
func (h *handler) counted() counts {
	h.lock.Lock()
	defer h.lock.Unlock()
	c := h.counts
	c.Statuses, c.Hosts = maps.Clone(c.Statuses), maps.Clone(c.Hosts)
	return c
}

func write(w http.ResponseWriter, status int, content any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(content)
}

// settings are the options of `echo serve`.
type settings struct {
	address     string
	tlsAddress  string
	grpcAddress string
	pair        keyPair
	selfSigned  string
	drain       time.Duration
	faults      faults
}

func parseSettings(arguments []string) (settings, error) {
	s := settings{faults: faults{statuses: map[int]float64{}}}
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.StringVar(&s.address, "addr", ":8080", "address to listen on")
	flags.StringVar(&s.tlsAddress, "tls-addr", ":8443", "address to listen on with TLS, if there is a certificate")
	flags.StringVar(&s.grpcAddress, "grpc-addr", "", "address to answer gRPC's health check on; default: none")
	flags.StringVar(&s.pair.certificate, "tls-cert", "", "file with the certificate (PEM)")
	flags.StringVar(&s.pair.key, "tls-key", "", "file with its key (PEM)")
	flags.StringVar(&s.selfSigned, "tls-self-signed", "", "make a certificate for this name, or names with commas, and print its CA")
	flags.DurationVar(&s.drain, "drain", 3*time.Second, "how long to go on serving after a signal")
	flags.Func("status-rate", "answer a share of the requests with a status, as 503=0.2; several", s.faults.setStatusRate)
	flags.DurationVar(&s.faults.delay, "delay", 0, "wait before answering")
	flags.Float64Var(&s.faults.delayRate, "delay-rate", 1, "share of the requests that wait")
	if err := flags.Parse(arguments); err != nil {
		return s, err
	}
	given := s.pair.certificate != "" || s.pair.key != ""
	switch {
	case flags.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case given && (s.pair.certificate == "" || s.pair.key == ""):
		return s, errors.New("--tls-cert and --tls-key belong together")
	case given && s.selfSigned != "":
		return s, errors.New("--tls-self-signed makes what --tls-cert and --tls-key bring")
	}
	return s, s.faults.check()
}

// serve runs the servers until SIGTERM or SIGINT, then ends without losing a request.
func serve(arguments []string) error {
	s, err := parseSettings(arguments)
	if err != nil {
		return err
	}
	version := os.Getenv("VERSION")
	if version == "" {
		version = "v1"
	}
	pod, err := os.Hostname()
	if err != nil {
		return err
	}
	h := newHandler(version, pod, s.faults)
	tlsConfig, err := s.tls(os.Stdout)
	if err != nil {
		return err
	}
	signalled, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	servers := []*http.Server{{Addr: s.address, Handler: h, ReadHeaderTimeout: 10 * time.Second}}
	failed := make(chan error, 3)
	go func() { failed <- servers[0].ListenAndServe() }()
	if tlsConfig != nil {
		encrypted := &http.Server{
			Addr: s.tlsAddress, Handler: h, TLSConfig: tlsConfig, ReadHeaderTimeout: 10 * time.Second,
		}
		servers = append(servers, encrypted)
		go func() { failed <- encrypted.ListenAndServeTLS("", "") }()
	}
	rpc := newGRPCServer(h)
	if s.grpcAddress != "" {
		listener, err := net.Listen("tcp", s.grpcAddress)
		if err != nil {
			return err
		}
		go func() { failed <- rpc.Serve(listener) }()
	}
	select {
	case err := <-failed:
		return err
	case <-signalled.Done():
	}
	// Endpoints are withdrawn while the pod ends: requests that are on their
	// way still find a server.
	h.ready.Store(false)
	time.Sleep(s.drain)
	rpc.GracefulStop()
	return shutdown(servers)
}

func shutdown(servers []*http.Server) error {
	end, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	var problems []error
	for _, server := range servers {
		problems = append(problems, server.Shutdown(end))
	}
	return errors.Join(problems...)
}
