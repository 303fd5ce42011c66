package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func newServer(t *testing.T, version string, options ...string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handlerWith(t, version, options...))
	t.Cleanup(server.Close)
	return server
}

func handlerWith(t *testing.T, version string, options ...string) *handler {
	t.Helper()
	s, err := parseSettings(options)
	if err != nil {
		t.Fatal(err)
	}
	return newHandler(version, "pod-1", s.faults)
}

func callFor(t *testing.T, arguments ...string) tally {
	t.Helper()
	var out bytes.Buffer
	if err := call(arguments, &out); err != nil {
		t.Fatal(err)
	}
	var found tally
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	return found
}

func TestAnswerNamesVersionPodAndPath(t *testing.T) {
	response, err := http.Get(newServer(t, "v2").URL + "/cart")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var got answer
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if want := (answer{Version: "v2", Pod: "pod-1", Path: "/cart"}); !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestCallCountsVersions(t *testing.T) {
	server := newServer(t, "v1")
	got := callFor(t, "--url", server.URL, "--count", "50", "--concurrency", "4")
	if got.Requests != 50 || got.OK != 50 || got.Statuses["200"] != 50 ||
		got.Versions["v1"] != 50 || got.Pods["pod-1"] != 50 {
		t.Fatalf("got %+v", got)
	}
}

func TestFailedRequestsAreCountedNotReturned(t *testing.T) {
	h := handlerWith(t, "v1")
	h.ready.Store(false)
	server := httptest.NewServer(h)
	got := callFor(t, "--url", server.URL+"/healthz", "--count", "3")
	if got.Failed != 3 || got.Errors["status 503"] != 3 {
		t.Fatalf("got %+v", got)
	}
	server.Close()
	got = callFor(t, "--url", server.URL, "--count", "2")
	if got.Errors["connection refused"] != 2 {
		t.Fatalf("got %+v", got)
	}
}

func TestDurationAndRateLimitRequests(t *testing.T) {
	server := newServer(t, "v1")
	started := time.Now()
	got := callFor(t, "--url", server.URL, "--duration", "500ms", "--rate", "20")
	if took := time.Since(started); took < 400*time.Millisecond || took > 5*time.Second {
		t.Fatalf("took %v", took)
	}
	if got.Requests < 5 || got.Requests > 11 {
		t.Fatalf("sent %d requests, want about 10", got.Requests)
	}
}

func TestBadUsageIsAnError(t *testing.T) {
	for _, arguments := range [][]string{
		{}, {"--url", "nohost"}, {"--url", "http://h", "--count", "0"}, {"--url", "http://h", "x"},
		{"--url", "http://h", "--header", "x"}, {"--url", "http://h", "--method", "no method"},
		{"--url", "http://h", "--insecure", "--ca", "ca.pem"}, {"--url", "http://h", "--ca", "/none"},
		{"--url", "http://h", "--grpc", "--jar"},
	} {
		if err := call(arguments, &bytes.Buffer{}); err == nil {
			t.Errorf("call accepted %q", arguments)
		}
	}
	for _, arguments := range [][]string{
		{"x"}, {"--tls-cert", "a.pem"}, {"--tls-cert", "a", "--tls-key", "b", "--tls-self-signed", "c"},
		{"--status-rate", "503"}, {"--status-rate", "503=2"}, {"--status-rate", "99=0.1"},
		{"--status-rate", "503=0.6", "--status-rate", "429=0.6"}, {"--delay", "1s", "--delay-rate", "-1"},
	} {
		if _, err := parseSettings(arguments); err == nil {
			t.Errorf("serve accepted %q", arguments)
		}
	}
}

func TestAStatusRateIsTheShareThatFails(t *testing.T) {
	server := newServer(t, "v2", "--status-rate", "503=0.2", "--status-rate", "429=0.1")
	got := callFor(t, "--url", server.URL, "--count", "2000", "--concurrency", "4")
	// 4.4 standard deviations: one run in 100,000 lies outside.
	if n := got.Statuses["503"]; n < 320 || n > 480 {
		t.Errorf("503 came %d times of 2000, want about 400", n)
	}
	if n := got.VersionStatuses["v2"]["429"]; n < 140 || n > 260 {
		t.Errorf("429 came %d times of 2000, want about 200", n)
	}
	if got.OK != got.PodStatuses["pod-1"]["200"] || got.Versions["v2"] != got.OK {
		t.Errorf("got %+v", got)
	}
	if health := callFor(t, "--url", server.URL+"/healthz", "--count", "50"); health.OK != 50 {
		t.Errorf("/healthz met faults: %+v", health)
	}
	response, err := http.Get(server.URL + "/counts")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var c counts
	if err := json.NewDecoder(response.Body).Decode(&c); err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(server.URL, "http://")
	if c.Requests != 2000 || c.Statuses["503"] != got.Statuses["503"] || c.Hosts[host] != 2000 {
		t.Errorf("counted %+v", c)
	}
}

func TestADelayIsMeasured(t *testing.T) {
	server := newServer(t, "v1", "--delay", "50ms", "--delay-rate", "0.5")
	got := callFor(t, "--url", server.URL, "--count", "60", "--concurrency", "6")
	if got.LatencyMs.P99 < 50 || got.LatencyMs.P99 > 1000 || got.LatencyMs.P50 > got.LatencyMs.P99 {
		t.Fatalf("got %+v", got.LatencyMs)
	}
}

func TestPercentilesAreOfTheSortedLatencies(t *testing.T) {
	ten := make([]time.Duration, 10)
	for i := range ten {
		ten[i] = time.Duration(i+1) * time.Millisecond
	}
	for share, want := range map[float64]float64{0.50: 5, 0.90: 9, 0.99: 10} {
		if got := milliseconds(ten, share); got != want {
			t.Errorf("p%v is %v, want %v", share*100, got, want)
		}
	}
	if got := milliseconds(nil, 0.5); got != 0 {
		t.Errorf("no latency is %v", got)
	}
}

func TestWhatIsSentIsShownWhenAsked(t *testing.T) {
	server := newServer(t, "v1")
	got := callFor(t, "--url", server.URL+"/a?show=headers", "--method", "POST", "--host", "shop.example",
		"--header", "X-Tester=yes", "--header", "X-Tester=again", "--cookie", "group=beta", "--last")
	var a answer
	if err := json.Unmarshal([]byte(got.Last.Body), &a); err != nil {
		t.Fatal(err)
	}
	if a.Method != "POST" || a.Host != "shop.example" || a.Path != "/a" ||
		len(a.Headers["X-Tester"]) != 2 || a.Headers.Get("Cookie") != "group=beta" {
		t.Fatalf("got %+v", a)
	}
}

func TestTheJarKeepsCookiesAndRedirectsCanBeCounted(t *testing.T) {
	var cookies []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cookies = append(cookies, r.Header.Get("Cookie"))
		http.SetCookie(w, &http.Cookie{Name: "stick", Value: "1", Path: "/"})
		http.Redirect(w, r, "https://elsewhere.example/", http.StatusMovedPermanently)
	}))
	defer server.Close()
	got := callFor(t, "--url", server.URL, "--count", "2", "--jar", "--follow=false")
	if got.Statuses["301"] != 2 || !reflect.DeepEqual(cookies, []string{"", "stick=1"}) {
		t.Fatalf("got %+v, cookies %q", got, cookies)
	}
}

func TestASelfSignedCertificateIsTrustedByItsCA(t *testing.T) {
	var printed bytes.Buffer
	config, err := settings{selfSigned: "shop.example,127.0.0.1"}.tls(&printed)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handlerWith(t, "v1"))
	server.TLS = config
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, printed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, options := range map[int][]string{
		1: {"--ca", ca, "--host", "shop.example"},
		2: {"--insecure", "--count", "2"},
		0: {"--ca", ca, "--host", "other.example"},
	} {
		got := callFor(t, append([]string{"--url", server.URL, "--fresh"}, options...)...)
		if got.OK != want {
			t.Errorf("%q: %+v", options, got)
		}
	}
}

// newRPC is the address of a gRPC server, and its handler.
func newRPC(t *testing.T, version string, options ...string) (string, *handler) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := handlerWith(t, version, options...)
	server := newGRPCServer(h)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String(), h
}

func TestGRPCIsAnsweredAndCounted(t *testing.T) {
	address, _ := newRPC(t, "v2")
	got := callFor(t, "--grpc", "--url", "http://"+address, "--count", "20", "--concurrency", "4")
	if got.OK != 20 || got.Versions["v2"] != 20 || got.Pods["pod-1"] != 20 || got.Statuses["OK"] != 20 {
		t.Fatalf("got %+v", got)
	}
}

func TestGRPCMeetsFaults(t *testing.T) {
	address, h := newRPC(t, "v2", "--status-rate", "503=1")
	got := callFor(t, "--grpc", "--url", "http://"+address, "--count", "5", "--header", "x-user=a")
	if got.Failed != 5 || got.VersionStatuses["v2"]["Unavailable"] != 5 {
		t.Fatalf("got %+v", got)
	}
	want := counts{Requests: 5, Statuses: map[string]int{"503": 5}, Hosts: map[string]int{address: 5}}
	if counted := h.counted(); !reflect.DeepEqual(counted, want) {
		t.Fatalf("got %v, want %v", counted, want)
	}
}

func TestGRPCTellsThatNobodyAnswers(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	if got := callFor(t, "--grpc", "--url", server.URL); got.Errors["gRPC status Unavailable"] != 1 {
		t.Fatalf("got %+v", got)
	}
}
