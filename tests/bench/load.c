/* Sends queries to a server on 127.0.0.1, over UDP from one socket or over TCP, and prints the result as JSON.
 *
 *   load flood PORT FILE SECONDS WINDOW   keep WINDOW queries in flight
 *   load rate PORT FILE SECONDS RATE      open loop: one query every 1/RATE s, independently of the answers
 *   load once PORT FILE TIMES WINDOW      send all queries of the file TIMES times
 *   load stream PORT FILE SECONDS CxW     over C TCP connections, with W queries in flight on each
 *
 * SIGTERM ends the load early. FILE contains DNS queries, each after a two-byte length as over TCP; their ids are
 * replaced. An answer counts if a query with its id is in flight. It is wrong if its question section differs from
 * the query's in any byte. Latency is measured at the client: from just before the query is sent until the answer has
 * been read.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

enum { BATCH = 64, LARGEST = 4096, IDS = 65536, HEADER = 12, RCODES = 16, PREFIX = 2, CONNECTIONS = 200 };
static const int64_t SECOND = 1000000000;
/* A query without an answer after this time is lost; a server on a busy machine answers late. */
static const int64_t TIMEOUT = 5000000000;

struct query {
    const unsigned char *bytes;
    uint16_t length;
};

static struct query *queries;
static size_t query_count, next_query;

/* Queries in flight by id; sent is 0 if there is none. */
static struct {
    int64_t sent;
    const struct query *query;
} flights[IDS];
static uint16_t next_id;
static int in_flight;

static uint64_t sent, answered, lost, wrong, truncated, rcodes[RCODES], received_bytes;
static uint32_t *times; /* nanoseconds */
static size_t time_count, time_room = 1 << 20;

static volatile sig_atomic_t ended_early;

static int sock;
static unsigned char inbox[BATCH][LARGEST], outbox[BATCH][LARGEST];
static struct iovec in_pieces[BATCH], out_pieces[BATCH];
static struct mmsghdr in_messages[BATCH], out_messages[BATCH];

static void end_early(int number) {
    (void)number;
    ended_early = 1;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now(void) {
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return moment.tv_sec * SECOND + moment.tv_nsec;
}

static void read_queries(const char *path) {
    struct stat status;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &status) < 0) die(path);
    size_t size = (size_t)status.st_size, room = 0;
    unsigned char *bytes = malloc(size + 1);
    if (!bytes || fread(bytes, 1, size, file) != size) die(path);
    fclose(file);
    for (size_t at = 0; at + 2 <= size;) {
        uint16_t length = (uint16_t)(bytes[at] << 8 | bytes[at + 1]);
        if (length < HEADER || length > LARGEST || at + 2 + length > size) die("not a file of queries");
        if (query_count == room) {
            room = room ? room * 2 : 1024;
            queries = realloc(queries, room * sizeof *queries);
            if (!queries) die("memory");
        }
        queries[query_count++] = (struct query){bytes + at + 2, length};
        at += 2 + (size_t)length;
    }
    if (!query_count) die("no queries");
}

static void open_socket(int port) {
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int room = 4 << 20;
    there.sin_port = htons((unsigned short)port);
    sock = socket(AF_INET, SOCK_DGRAM, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&there, sizeof there) < 0) die("socket");
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    for (int i = 0; i < BATCH; i++) {
        in_pieces[i] = (struct iovec){inbox[i], LARGEST};
        in_messages[i].msg_hdr = (struct msghdr){.msg_iov = &in_pieces[i], .msg_iovlen = 1};
        out_pieces[i].iov_base = outbox[i];
        out_messages[i].msg_hdr = (struct msghdr){.msg_iov = &out_pieces[i], .msg_iovlen = 1};
    }
}

/* Sends up to count queries; returns the number of sent ones. */
static int send_queries(int count) {
    uint16_t ids[BATCH];
    int64_t moment = now();
    for (int i = 0; i < count; i++) {
        const struct query *query = &queries[next_query++ % query_count];
        while (flights[next_id].sent) next_id++;
        ids[i] = next_id++;
        flights[ids[i]].sent = moment;
        flights[ids[i]].query = query;
        memcpy(outbox[i], query->bytes, query->length);
        outbox[i][0] = (unsigned char)(ids[i] >> 8);
        outbox[i][1] = (unsigned char)ids[i];
        out_pieces[i].iov_len = query->length;
    }
    int left = sendmmsg(sock, out_messages, (unsigned)count, 0);
    if (left < 0) left = 0; /* no server, or a full buffer: the queries are sent again later */
    for (int i = left; i < count; i++) flights[ids[i]].sent = 0;
    next_query -= (size_t)(count - left);
    in_flight += left;
    sent += (uint64_t)left;
    return left;
}

/* Offset of the end of the question section of a query with one question. */
static size_t question_end(const struct query *query) {
    size_t at = HEADER;
    while (at < query->length && query->bytes[at]) at += query->bytes[at] + 1u;
    return at + 5;
}

static void record_answer(const unsigned char *bytes, size_t length, int64_t moment) {
    if (length < HEADER) {
        wrong++;
        return;
    }
    uint16_t id = (uint16_t)(bytes[0] << 8 | bytes[1]);
    if (!flights[id].sent) return; /* counted as lost before */
    size_t end = question_end(flights[id].query);
    if (length < end || memcmp(bytes + HEADER, flights[id].query->bytes + HEADER, end - HEADER)) wrong++;
    if (time_count == time_room) {
        time_room *= 2;
        times = realloc(times, time_room * sizeof *times);
        if (!times) die("memory");
    }
    int64_t took = moment - flights[id].sent;
    times[time_count++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    flights[id].sent = 0;
    in_flight--;
    answered++;
    truncated += bytes[2] >> 1 & 1;
    rcodes[bytes[3] & 15]++;
    received_bytes += length;
}

/* Reads the answers that have arrived, up to BATCH; returns their number. */
static int receive(int flags) {
    int count = recvmmsg(sock, in_messages, BATCH, flags, NULL);
    int64_t moment = now();
    for (int i = 0; i < count; i++) record_answer(inbox[i], in_messages[i].msg_len, moment);
    return count < 0 ? 0 : count;
}

static void drop_older(int64_t older_than) {
    for (int id = 0; id < IDS; id++)
        if (flights[id].sent && flights[id].sent <= older_than) {
            flights[id].sent = 0;
            in_flight--;
            lost++;
        }
}

static void wait_readable(int64_t nanoseconds) {
    struct pollfd polled = {.fd = sock, .events = POLLIN};
    struct timespec limit = {nanoseconds / SECOND, nanoseconds % SECOND};
    if (nanoseconds > 0) ppoll(&polled, 1, &limit, NULL);
}

static void flood(int64_t until, uint64_t limit, int window) {
    int64_t swept = now();
    while (now() < until && sent < limit && !ended_early) {
        int room = window - in_flight;
        if ((uint64_t)room > limit - sent) room = (int)(limit - sent);
        while (room > 0) {
            int left = send_queries(room < BATCH ? room : BATCH);
            if (left <= 0) break;
            room -= left;
        }
        if (!receive(MSG_DONTWAIT)) {
            wait_readable(SECOND / 20);
            receive(MSG_DONTWAIT);
        }
        if (now() - swept > TIMEOUT / 2) {
            swept = now();
            drop_older(swept - TIMEOUT);
        }
    }
}

static void at_rate(int64_t started, int64_t until, double rate) {
    for (uint64_t number = 0;; number++) {
        int64_t due = started + (int64_t)((double)number * (double)SECOND / rate);
        if (due >= until || ended_early) return;
        for (int64_t left; (left = due - now()) > 0 && !ended_early;) {
            wait_readable(left);
            while (receive(MSG_DONTWAIT)) {}
        }
        send_queries(1);
    }
}

struct connection {
    int sock, in_flight;
    size_t buffered;
    unsigned char bytes[PREFIX + 65535];
};
static struct connection connections[CONNECTIONS];

static int connect_to(int port) {
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    there.sin_port = htons((unsigned short)port);
    int made = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (made < 0 || connect(made, (struct sockaddr *)&there, sizeof there) < 0) die("connect");
    setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return made;
}

static void send_tcp(struct connection *over) {
    const struct query *query = &queries[next_query++ % query_count];
    unsigned char *bytes = outbox[0];
    while (flights[next_id].sent) next_id++;
    memcpy(bytes + PREFIX, query->bytes, query->length);
    bytes[0] = (unsigned char)(query->length >> 8);
    bytes[1] = (unsigned char)query->length;
    bytes[2] = (unsigned char)(next_id >> 8);
    bytes[3] = (unsigned char)next_id;
    flights[next_id].sent = now();
    flights[next_id++].query = query;
    if (send(over->sock, bytes, PREFIX + query->length, MSG_NOSIGNAL) != PREFIX + query->length) die("send");
    over->in_flight++;
    in_flight++;
    sent++;
}

static void receive_tcp(struct connection *over) {
    ssize_t count = recv(over->sock, over->bytes + over->buffered, sizeof over->bytes - over->buffered, MSG_DONTWAIT);
    if (!count) errno = ECONNRESET;
    if (count <= 0) die("the server closed a connection");
    over->buffered += (size_t)count;
    size_t at = 0;
    while (over->buffered - at >= PREFIX) {
        size_t length = (size_t)(over->bytes[at] << 8 | over->bytes[at + 1]);
        if (over->buffered - at < PREFIX + length) break;
        record_answer(over->bytes + at + PREFIX, length, now());
        over->in_flight--;
        at += PREFIX + length;
    }
    over->buffered -= at;
    memmove(over->bytes, over->bytes + at, over->buffered);
}

/* Runs the load until all queries are answered; returns the time since the first query. */
static int64_t stream(int port, int64_t nanoseconds, int count, int window) {
    struct pollfd polled[CONNECTIONS];
    for (int i = 0; i < count; i++)
        polled[i] = (struct pollfd){.fd = connections[i].sock = connect_to(port), .events = POLLIN};
    int64_t started = now(), until = started + nanoseconds, last_answer = started;
    for (int is_over = 0; !is_over || in_flight;) {
        is_over = now() >= until || ended_early;
        for (int i = 0; i < count && !is_over; i++)
            while (connections[i].in_flight < window) send_tcp(&connections[i]);
        if (poll(polled, (nfds_t)count, 100) > 0) last_answer = now();
        if (now() - last_answer > 2 * TIMEOUT) break;
        for (int i = 0; i < count; i++)
            if (polled[i].revents) receive_tcp(&connections[i]);
    }
    return now() - started;
}

static void last_answers(void) {
    for (int64_t until = now() + TIMEOUT; in_flight && now() < until;) {
        wait_readable(SECOND / 50);
        while (receive(MSG_DONTWAIT)) {}
    }
    drop_older(INT64_MAX);
}

static int by_size(const void *one, const void *other) {
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static double percentile(double share) {
    if (!time_count) return 0;
    size_t at = (size_t)((double)time_count * share);
    return times[at < time_count ? at : time_count - 1] / 1000.0;
}

static void print_result(double seconds) {
    lost += (uint64_t)in_flight;
    qsort(times, time_count, sizeof *times, by_size);
    printf("{\"sent\": %lu, \"answered\": %lu, \"lost\": %lu, \"wrong\": %lu, \"truncated\": %lu, \"bytes\": %lu, ",
           sent, answered, lost, wrong, truncated, received_bytes);
    printf("\"seconds\": %.6f, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"worst\": %.1f, \"rcodes\": {",
           seconds, percentile(0.5), percentile(0.9), percentile(0.99), percentile(1));
    const char *comma = "";
    for (int rcode = 0; rcode < RCODES; rcode++)
        if (rcodes[rcode]) {
            printf("%s\"%d\": %lu", comma, rcode, rcodes[rcode]);
            comma = ", ";
        }
    printf("}}\n");
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fputs("usage: load flood|rate|once|stream PORT FILE SECONDS|TIMES WINDOW|RATE|CxW\n", stderr);
        return 2;
    }
    double amount = atof(argv[4]), pace = atof(argv[5]);
    int streams = 0, each = 1;
    sscanf(argv[5], "%dx%d", &streams, &each);
    read_queries(argv[3]);
    open_socket(atoi(argv[2]));
    times = malloc(time_room * sizeof *times);
    if (!times) die("memory");
    prctl(PR_SET_TIMERSLACK, 1UL); /* the default slack would delay each query by 50 us */
    signal(SIGTERM, end_early);
    int64_t started = now(), until = started + (int64_t)(amount * (double)SECOND);
    if (!strcmp(argv[1], "flood")) flood(until, UINT64_MAX, (int)pace);
    else if (!strcmp(argv[1], "once")) flood(INT64_MAX, (uint64_t)amount * query_count, (int)pace);
    else if (!strcmp(argv[1], "rate")) at_rate(started, until, pace);
    else if (!strcmp(argv[1], "stream") && streams > 0 && streams <= CONNECTIONS) {
        print_result((double)stream(atoi(argv[2]), until - started, streams, each) / (double)SECOND);
        return 0;
    } else return 2;
    int64_t ended = now();
    last_answers();
    print_result((double)(ended - started) / (double)SECOND);
    return 0;
}
