/* Asks a server at 127.0.0.1, over UDP from one socket or over TCP, and tells what came back as one line of JSON.
 *
 *   load flood PORT FILE SECONDS WINDOW   so many questions are always on their way
 *   load rate PORT FILE SECONDS RATE      open loop: one question each 1/RATE s, whatever comes back
 *   load once PORT FILE TIMES WINDOW      the whole file so many times
 *   load stream PORT FILE SECONDS CxW     over C connections, with W questions on their way on each
 *
 * SIGTERM ends it earlier. FILE holds DNS queries as over TCP, each behind its length in two bytes; what stands
 * in it as id is replaced. An answer counts where its id is on its way, and is wrong where its question is not
 * the one that was sent, byte for byte. A time is the caller's: from just before the question is sent until the
 * answer has been read.
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
static const int64_t SECOND = 1000000000, GIVEN_UP = 1000000000;

struct query {
    const unsigned char *bytes;
    uint16_t length;
};

static struct query *queries;
static size_t query_count, next_query;

/* What is on its way, by id; sent is 0 where nothing is. */
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

/* Sends up to so many questions; how many left. */
static int ask(int count) {
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
    if (left < 0) left = 0; /* the server is not there, or no room: the questions are asked again */
    for (int i = left; i < count; i++) flights[ids[i]].sent = 0;
    next_query -= (size_t)(count - left);
    in_flight += left;
    sent += (uint64_t)left;
    return left;
}

/* The end of the question of a query that asks one thing. */
static size_t question_end(const struct query *query) {
    size_t at = HEADER;
    while (at < query->length && query->bytes[at]) at += query->bytes[at] + 1u;
    return at + 5;
}

static void take(const unsigned char *bytes, size_t length, int64_t moment) {
    if (length < HEADER) {
        wrong++;
        return;
    }
    uint16_t id = (uint16_t)(bytes[0] << 8 | bytes[1]);
    if (!flights[id].sent) return; /* given up before */
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

/* Reads what is there; how many answers. */
static int hear(int flags) {
    int count = recvmmsg(sock, in_messages, BATCH, flags, NULL);
    int64_t moment = now();
    for (int i = 0; i < count; i++) take(inbox[i], in_messages[i].msg_len, moment);
    return count < 0 ? 0 : count;
}

static void give_up(int64_t older_than) {
    for (int id = 0; id < IDS; id++)
        if (flights[id].sent && flights[id].sent <= older_than) {
            flights[id].sent = 0;
            in_flight--;
            lost++;
        }
}

static void wait_readable(int64_t nanoseconds) {
    struct pollfd polled = {.fd = sock, .events = POLLIN};
    struct timespec most = {nanoseconds / SECOND, nanoseconds % SECOND};
    if (nanoseconds > 0) ppoll(&polled, 1, &most, NULL);
}

static void flood(int64_t until, uint64_t most, int window) {
    int64_t swept = now();
    while (now() < until && sent < most && !ended_early) {
        int room = window - in_flight;
        if ((uint64_t)room > most - sent) room = (int)(most - sent);
        while (room > 0) {
            int left = ask(room < BATCH ? room : BATCH);
            if (left <= 0) break;
            room -= left;
        }
        if (!hear(MSG_DONTWAIT)) {
            wait_readable(SECOND / 20);
            hear(MSG_DONTWAIT);
        }
        if (now() - swept > GIVEN_UP / 2) {
            swept = now();
            give_up(swept - GIVEN_UP);
        }
    }
}

static void at_rate(int64_t begun, int64_t until, double rate) {
    for (uint64_t number = 0;; number++) {
        int64_t due = begun + (int64_t)((double)number * (double)SECOND / rate);
        if (due >= until || ended_early) return;
        for (int64_t left; (left = due - now()) > 0 && !ended_early;) {
            wait_readable(left);
            while (hear(MSG_DONTWAIT)) {}
        }
        ask(1);
    }
}

struct connection {
    int sock, on_the_way;
    size_t held;
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

static void ask_over(struct connection *over) {
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
    over->on_the_way++;
    in_flight++;
    sent++;
}

static void hear_over(struct connection *over) {
    ssize_t count = recv(over->sock, over->bytes + over->held, sizeof over->bytes - over->held, MSG_DONTWAIT);
    if (!count) errno = ECONNRESET;
    if (count <= 0) die("the server closed a connection");
    over->held += (size_t)count;
    size_t at = 0;
    while (over->held - at >= PREFIX) {
        size_t length = (size_t)(over->bytes[at] << 8 | over->bytes[at + 1]);
        if (over->held - at < PREFIX + length) break;
        take(over->bytes + at + PREFIX, length, now());
        over->on_the_way--;
        at += PREFIX + length;
    }
    over->held -= at;
    memmove(over->bytes, over->bytes + at, over->held);
}

/* Goes on until what was asked is answered; the time from the first question on. */
static int64_t stream(int port, int64_t nanoseconds, int count, int window) {
    struct pollfd polled[CONNECTIONS];
    for (int i = 0; i < count; i++)
        polled[i] = (struct pollfd){.fd = connections[i].sock = connect_to(port), .events = POLLIN};
    int64_t begun = now(), until = begun + nanoseconds, heard = begun;
    for (int is_over = 0; !is_over || in_flight;) {
        is_over = now() >= until || ended_early;
        for (int i = 0; i < count && !is_over; i++)
            while (connections[i].on_the_way < window) ask_over(&connections[i]);
        if (poll(polled, (nfds_t)count, 100) > 0) heard = now();
        if (now() - heard > 10 * GIVEN_UP) break;
        for (int i = 0; i < count; i++)
            if (polled[i].revents) hear_over(&connections[i]);
    }
    return now() - begun;
}

static void last_answers(void) {
    for (int64_t until = now() + GIVEN_UP; in_flight && now() < until;) {
        wait_readable(SECOND / 50);
        while (hear(MSG_DONTWAIT)) {}
    }
    give_up(INT64_MAX);
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

static void tell(double seconds) {
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
    prctl(PR_SET_TIMERSLACK, 1UL); /* or sleeping until a question is due takes 50 us longer */
    signal(SIGTERM, end_early);
    int64_t begun = now(), until = begun + (int64_t)(amount * (double)SECOND);
    if (!strcmp(argv[1], "flood")) flood(until, UINT64_MAX, (int)pace);
    else if (!strcmp(argv[1], "once")) flood(INT64_MAX, (uint64_t)amount * query_count, (int)pace);
    else if (!strcmp(argv[1], "rate")) at_rate(begun, until, pace);
    else if (!strcmp(argv[1], "stream") && streams > 0 && streams <= CONNECTIONS) {
        tell((double)stream(atoi(argv[2]), until - begun, streams, each) / (double)SECOND);
        return 0;
    } else return 2;
    int64_t ended = now();
    last_answers();
    tell((double)(ended - begun) / (double)SECOND);
    return 0;
}
