# Measures a disk and the network between nodes, with Debian's perl-base only. Changes nothing.
#
#   sync DIRECTORY                 times of fdatasync: count, then p50, p99 and the
#                                  maximum, in microseconds
#   synchronized                   whether the kernel's clock is set by NTP: yes or no
#   listen ADDRESS TCP UDP         listens on ports (separated by commas), prints the
#                                  busy ones, then `ready`, and ends with its input
#   connect NAME=ADDRESS=TCP=UDP...
#                                  tries the ports of other nodes: a line each
use strict;
use warnings;
use Errno qw(EINPROGRESS);
use Fcntl;
use POSIX qw(uname);
use Socket;

# perl-base has neither Time::HiRes nor syscall.ph: these are Linux's numbers.
my ($CLOCK_GETTIME, $FDATASYNC, $ADJTIMEX) =
    (uname())[4] eq 'aarch64' ? (113, 83, 171) : (228, 75, 159);
my ($IP_MTU_DISCOVER, $DO_NOT_FRAGMENT, $IP_MTU) = (10, 2, 14);
$| = 1;

# Seconds of the monotonic clock.
sub now {
    my $time = pack 'q2', 0, 0;
    syscall $CLOCK_GETTIME, 1, $time;
    my ($seconds, $nanoseconds) = unpack 'q2', $time;
    return $seconds + $nanoseconds / 1e9;
}

# Like systemd: the kernel's maximum error of an unsynchronized clock is 16 seconds.
sub print_synchronized {
    my $timex = "\0" x 256;
    syscall($ADJTIMEX, $timex) >= 0 or die "adjtimex: $!\n";
    my (undef, undef, undef, $maximum_error) = unpack 'L x4 q3', $timex;
    print $maximum_error < 16_000_000 ? "yes\n" : "no\n";
}

sub percentile {
    my ($share, @sorted) = @_;
    my $index = int($share * @sorted + 0.999999) - 1;
    return $sorted[$index < 0 ? 0 : $index];
}

# As etcd's documentation measures with fio: writes of 2300 bytes, each followed by fdatasync; at most 1000
# writes or 5 seconds. The file is unlinked before the first write.
sub measure_sync {
    my ($directory) = @_;
    my $path = "$directory/.nordmesh-preflight.$$";
    sysopen my $file, $path, O_WRONLY | O_CREAT | O_EXCL, 0600 or die "cannot write to the directory: $!\n";
    unlink $path;
    my ($data, $end, @times) = ('x' x 2300, now() + 5);
    while (@times < 1000 && now() < $end) {
        my $start = now();
        syswrite $file, $data or die "cannot write to the directory: $!\n";
        syscall($FDATASYNC, fileno $file) == 0 or die "fdatasync fails: $!\n";
        push @times, now() - $start;
    }
    my @sorted = sort { $a <=> $b } @times;
    printf "%d %.0f %.0f %.0f\n", scalar @sorted,
        map { $_ * 1e6 } percentile(0.5, @sorted), percentile(0.99, @sorted), $sorted[-1];
}

sub opened {
    my ($kind, $address, $port) = @_;
    my $type = $kind eq 'tcp' ? SOCK_STREAM : SOCK_DGRAM;
    socket my $socket, PF_INET, $type, 0 or die "socket: $!\n";
    setsockopt $socket, SOL_SOCKET, SO_REUSEADDR, 1 if $kind eq 'tcp';
    my $is_bound = bind $socket, sockaddr_in($port, inet_aton($address));
    $is_bound &&= listen $socket, 128 if $kind eq 'tcp';
    return $is_bound ? $socket : undef;
}

sub listen_for_others {
    my ($address, $tcp, $udp) = @_;
    my (%kind, %socket);
    for my $wanted ((map { "tcp $_" } split /,/, $tcp), map { "udp $_" } split /,/, $udp) {
        my ($kind, $port) = split / /, $wanted;
        my $socket = opened($kind, $address, $port);
        if (!$socket) { print "busy $wanted\n"; next }
        $kind{fileno $socket} = $kind;
        $socket{fileno $socket} = $socket;
    }
    print "ready\n";
    my $wanted = '';
    vec($wanted, $_, 1) = 1 for keys %socket, fileno STDIN;
    while (select(my $ready = $wanted, undef, undef, undef) > 0) {
        # The input ends when the SSH connection ends, for whatever reason.
        exit 0 if vec($ready, fileno STDIN, 1) && !sysread STDIN, my $nothing, 1;
        for my $number (grep { vec $ready, $_, 1 } keys %socket) {
            if ($kind{$number} eq 'tcp') { accept my $peer, $socket{$number}; next }
            my $peer = recv $socket{$number}, my $data, 65536, 0;
            # A large packet gets a small answer: only the path to this node is measured.
            send $socket{$number}, substr($data, 0, 8), 0, $peer if $peer;
        }
    }
}

# Connects to all ports at once, for three seconds: the kernel retries after one.
sub connect_all {
    my ($name, $address, @ports) = @_;
    my (%port, %socket, %result);
    for my $port (@ports) {
        socket my $socket, PF_INET, SOCK_STREAM, 0 or die "socket: $!\n";
        fcntl $socket, F_SETFL, O_NONBLOCK;
        connect $socket, sockaddr_in($port, inet_aton($address));
        if ($! && $! != EINPROGRESS) { $result{$port} = "$!"; next }
        ($port{fileno $socket}, $socket{fileno $socket}) = ($port, $socket);
    }
    my $end = now() + 3;
    while (%socket && (my $left = $end - now()) > 0) {
        my $wanted = '';
        vec($wanted, $_, 1) = 1 for keys %socket;
        select undef, $wanted, undef, $left;
        for my $number (grep { vec $wanted, $_, 1 } keys %socket) {
            $! = unpack 'i', getsockopt $socket{$number}, SOL_SOCKET, SO_ERROR;
            $result{$port{$number}} = $! ? "$!" : 'ok';
            delete $socket{$number};
        }
    }
    for my $port (@ports) { printf "tcp %s %d %s\n", $name, $port, $result{$port} // 'no answer' }
    return grep { ($result{$_} // '') eq 'ok' } @ports;
}

# The median of ten handshakes, which the kernel of the other node answers itself.
sub measure_round_trip {
    my ($name, $address, $port) = @_;
    my @times;
    for (1 .. 10) {
        socket my $socket, PF_INET, SOCK_STREAM, 0 or die "socket: $!\n";
        my $start = now();
        connect $socket, sockaddr_in($port, inet_aton($address)) or next;
        push @times, now() - $start;
    }
    return if !@times;
    printf "rtt %s %.0f\n", $name, 1e6 * percentile(0.5, sort { $a <=> $b } @times);
}

# Whether one of five packets of a size comes back.
sub is_answered {
    my ($socket, $size) = @_;
    for (1 .. 5) {
        send $socket, 'x' x $size, 0 or return 0;
        vec(my $wanted = '', fileno $socket, 1) = 1;
        return 1 if select($wanted, undef, undef, 0.3) > 0 && defined recv $socket, my $data, 64, 0;
    }
    return 0;
}

sub try_udp {
    my ($name, $address, $port) = @_;
    socket my $socket, PF_INET, SOCK_DGRAM, 0 or die "socket: $!\n";
    connect $socket, sockaddr_in($port, inet_aton($address)) or die "connect: $!\n";
    my $is_open = is_answered($socket, 8);
    printf "udp %s %d %s\n", $name, $port, $is_open ? 'ok' : 'no answer';
    return if !$is_open;
    # As large as the interface allows, minus the headers of IP and UDP.
    my $mtu = unpack 'i', getsockopt $socket, 0, $IP_MTU;
    setsockopt $socket, 0, $IP_MTU_DISCOVER, $DO_NOT_FRAGMENT;
    printf "mtu %s %s\n", $name, is_answered($socket, $mtu - 28) ? 'ok' : 'no answer';
}

my ($mode, @arguments) = @ARGV;
if ($mode eq 'sync') { measure_sync(@arguments) }
elsif ($mode eq 'synchronized') { print_synchronized() }
elsif ($mode eq 'listen') { listen_for_others(@arguments) }
else {
    for my $target (@arguments) {
        my ($name, $address, $tcp, $udp) = split /=/, $target;
        my ($open) = connect_all($name, $address, split /,/, $tcp);
        measure_round_trip($name, $address, $open) if $open;
        try_udp($name, $address, $_) for split /,/, $udp // '';
    }
    print "end\n";
}
