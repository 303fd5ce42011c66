package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tally is what a run of calls found; it is printed as one JSON object.
//
// Versions and Pods count the successful requests, the *Statuses all that were
// answered, of gRPC all. LatencyMs is of those that were answered, from sending to the body's end.
type tally struct {
	Requests        int                       `json:"requests"`
	OK              int                       `json:"ok"`
	Failed          int                       `json:"failed"`
	Versions        map[string]int            `json:"versions"`
	Pods            map[string]int            `json:"pods"`
	Statuses        map[string]int            `json:"statuses"`
	VersionStatuses map[string]map[string]int `json:"version_statuses"`
	PodStatuses     map[string]map[string]int `json:"pod_statuses"`
	Errors          map[string]int            `json:"errors"`
	LatencyMs       percentiles               `json:"latency_ms"`
	Last            *reply                    `json:"last,omitempty"`

	latencies []time.Duration
}

type percentiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
}

// reply is one answer as it came.
type reply struct {
	Status  int         `json:"status"`
	Headers http.Header `json:"headers"`
	Body    string      `json:"body"`
}

type outcome struct {
	version string
	pod     string
	problem string
	latency time.Duration
	status  string // empty when there was no answer
	reply   *reply // of HTTP
}

// fetcher sends one request; several may be in flight.
type fetcher func() outcome

func newTally() *tally {
	return &tally{
		Versions:        map[string]int{},
		Pods:            map[string]int{},
		Statuses:        map[string]int{},
		VersionStatuses: map[string]map[string]int{},
		PodStatuses:     map[string]map[string]int{},
		Errors:          map[string]int{},
	}
}

func (t *tally) add(o outcome) {
	t.Requests++
	if o.status != "" {
		t.Statuses[o.status]++
		countUnder(t.VersionStatuses, o.version, o.status)
		countUnder(t.PodStatuses, o.pod, o.status)
		t.latencies = append(t.latencies, o.latency)
		t.Last = o.reply
	}
	if o.problem != "" {
		t.Failed++
		t.Errors[o.problem]++
		return
	}
	t.OK++
	if o.version != "" {
		t.Versions[o.version]++
	}
	if o.pod != "" {
		t.Pods[o.pod]++
	}
}

// countUnder counts the answers of the echo program; others have neither version nor pod.
func countUnder(counted map[string]map[string]int, name, status string) {
	if name == "" {
		return
	}
	if counted[name] == nil {
		counted[name] = map[string]int{}
	}
	counted[name][status]++
}

func (t *tally) finish() {
	slices.Sort(t.latencies)
	t.LatencyMs = percentiles{
		P50: milliseconds(t.latencies, 0.50),
		P90: milliseconds(t.latencies, 0.90),
		P99: milliseconds(t.latencies, 0.99),
	}
}

// milliseconds is the smallest latency that this share of the sorted ones does not exceed.
func milliseconds(sorted []time.Duration, share float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	rank := int(math.Ceil(share * float64(len(sorted))))
	return float64(sorted[rank-1].Microseconds()) / 1000
}

// plan says what to call, how often and how fast.
type plan struct {
	url         string
	grpc        bool
	method      string
	host        string
	headers     http.Header
	cookies     []*http.Cookie
	jar         bool
	follow      bool
	insecure    bool
	ca          string
	count       int
	concurrency int
	timeout     time.Duration
	duration    time.Duration
	rate        float64
	fresh       bool
	last        bool
}

func parsePlan(arguments []string) (plan, error) {
	p := plan{headers: http.Header{}}
	flags := flag.NewFlagSet("call", flag.ContinueOnError)
	flags.StringVar(&p.url, "url", "", "URL to call")
	flags.BoolVar(&p.grpc, "grpc", false, "call gRPC's health check there; statuses are gRPC's")
	flags.StringVar(&p.method, "method", http.MethodGet, "method of the requests")
	flags.StringVar(&p.host, "host", "", "Host header, and the name that TLS asks for; default: the URL's")
	flags.Func("header", "header NAME=VALUE; several", p.addHeader)
	flags.Func("cookie", "cookie NAME=VALUE; several", p.addCookie)
	flags.BoolVar(&p.jar, "jar", false, "keep the cookies that answers set, as a browser does")
	flags.BoolVar(&p.follow, "follow", true, "follow redirects; --follow=false counts them")
	flags.BoolVar(&p.insecure, "insecure", false, "accept any certificate")
	flags.StringVar(&p.ca, "ca", "", "file with the CAs (PEM) to trust instead of the system's")
	flags.IntVar(&p.count, "count", 1, "requests to send; ignored with --duration")
	flags.IntVar(&p.concurrency, "concurrency", 1, "requests in flight at most")
	flags.DurationVar(&p.timeout, "timeout", 5*time.Second, "for one request")
	flags.DurationVar(&p.duration, "duration", 0, "send for this long instead of --count requests")
	flags.Float64Var(&p.rate, "rate", 0, "requests per second; 0: as fast as they are answered")
	flags.BoolVar(&p.fresh, "fresh", false, "a new connection for every request")
	flags.BoolVar(&p.last, "last", false, "print the last answer too: status, headers, body")
	if err := flags.Parse(arguments); err != nil {
		return p, err
	}
	target, err := url.Parse(p.url)
	switch {
	case err != nil:
		return p, err
	case target.Host == "":
		return p, errors.New("--url needs a URL with a host")
	case flags.NArg() > 0:
		return p, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case p.grpc && (len(p.cookies) > 0 || p.jar || p.fresh || p.last || p.method != http.MethodGet):
		return p, errors.New("--grpc has no cookies, method, new connections or last answer")
	case p.insecure && p.ca != "":
		return p, errors.New("--insecure trusts anybody, --ca only some: choose one")
	case p.count < 1 || p.concurrency < 1 || p.timeout <= 0 || p.rate < 0 || p.duration < 0:
		return p, errors.New("--count, --concurrency and --timeout must be positive")
	}
	_, err = p.request()
	return p, err
}

func (p *plan) addHeader(text string) error {
	name, value, found := strings.Cut(text, "=")
	if !found || name == "" {
		return errors.New("want NAME=VALUE")
	}
	p.headers.Add(name, value)
	return nil
}

func (p *plan) addCookie(text string) error {
	cookies, err := http.ParseCookie(text)
	p.cookies = append(p.cookies, cookies...)
	return err
}

func (p *plan) request() (*http.Request, error) {
	request, err := http.NewRequest(p.method, p.url, nil)
	if err != nil {
		return nil, err
	}
	request.Header = p.headers.Clone()
	request.Host = p.host
	for _, cookie := range p.cookies {
		request.AddCookie(cookie)
	}
	return request, nil
}

// tls says whom to trust, and the name to ask for.
func (p *plan) tls() (*tls.Config, error) {
	trust := &tls.Config{InsecureSkipVerify: p.insecure}
	if p.host != "" {
		trust.ServerName = (&url.URL{Host: p.host}).Hostname()
	}
	if p.ca != "" {
		text, err := os.ReadFile(p.ca)
		if err != nil {
			return nil, err
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", p.ca)
		}
	}
	return trust, nil
}

func (p *plan) client() (*http.Client, error) {
	trust, err := p.tls()
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: p.timeout, Transport: &http.Transport{
		MaxIdleConnsPerHost: p.concurrency, DisableKeepAlives: p.fresh, TLSClientConfig: trust,
	}}
	if p.jar {
		client.Jar, _ = cookiejar.New(nil) // it never fails
	}
	if !p.follow {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return client, nil
}

// call sends the requests and prints the tally; failed requests are no error.
func call(arguments []string, out io.Writer) error {
	p, err := parsePlan(arguments)
	if err != nil {
		return err
	}
	newFetcher := httpFetcher
	if p.grpc {
		newFetcher = grpcFetcher
	}
	fetch, end, err := newFetcher(&p)
	if err != nil {
		return err
	}
	defer end()
	return json.NewEncoder(out).Encode(run(p, fetch))
}

func run(p plan, fetch fetcher) *tally {
	tickets := make(chan struct{})
	outcomes := make(chan outcome)
	go issue(p, tickets)
	var workers sync.WaitGroup
	for range p.concurrency {
		workers.Go(func() {
			for range tickets {
				outcomes <- fetch()
			}
		})
	}
	go func() {
		workers.Wait()
		close(outcomes)
	}()
	result := newTally()
	for o := range outcomes {
		result.add(o)
	}
	result.finish()
	if !p.last {
		result.Last = nil
	}
	return result
}

// issue hands out one ticket a request, at the plan's rate, and closes at its end.
func issue(p plan, tickets chan<- struct{}) {
	defer close(tickets)
	started := time.Now()
	for sent := 0; ; sent++ {
		if p.rate > 0 {
			due := started.Add(time.Duration(float64(sent) / p.rate * float64(time.Second)))
			time.Sleep(time.Until(due))
		}
		if p.duration > 0 && time.Since(started) >= p.duration {
			return
		}
		if p.duration == 0 && sent >= p.count {
			return
		}
		tickets <- struct{}{}
	}
}

func httpFetcher(p *plan) (fetcher, func(), error) {
	client, err := p.client()
	if err != nil {
		return nil, nil, err
	}
	return func() outcome { return fetch(client, p) }, client.CloseIdleConnections, nil
}

func fetch(client *http.Client, p *plan) outcome {
	request, err := p.request()
	if err != nil {
		return outcome{problem: reason(err)}
	}
	started := time.Now()
	response, err := client.Do(request)
	if err != nil {
		return outcome{problem: reason(err)}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	o := outcome{
		latency: time.Since(started),
		status:  strconv.Itoa(response.StatusCode),
		reply:   &reply{Status: response.StatusCode, Headers: response.Header, Body: string(body)},
	}
	var a answer
	if err == nil && json.Unmarshal(body, &a) == nil {
		o.version, o.pod = a.Version, a.Pod
	}
	switch {
	case err != nil:
		o.problem = reason(err)
	case response.StatusCode >= http.StatusBadRequest:
		o.problem = "status " + strconv.Itoa(response.StatusCode)
	}
	return o
}

// reason shortens an error to what it is about, so that equal failures count as one.
func reason(err error) string {
	var timeout net.Error
	var name *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.As(err, &name):
		return "name not found"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return err.Error()
}
