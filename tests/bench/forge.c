/* An upstream that sends forged answers before the correct one.
 *
 * forge PORT COUNT: listens on 127.0.0.1:PORT over UDP and TCP until it is killed.
 *
 * It responds to a query for A over UDP with COUNT forged answers, as from an attacker who knows the addresses and
 * ports of both sides but not the id: they come from PORT, go to the client's port, and have a random id. In each
 * batch of BATCH, one has the correct id but comes from another port. The correct answer follows. Over TCP it sends
 * only the correct answer; for other types, an empty answer. After each query it prints the number of forged answers
 * so far and the number of queries answered over TCP.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, LARGEST = 512, HEADER = 12, PREFIX = 2, RECORD = 16, CONNECTIONS = 64 };

static const unsigned char CORRECT[] = {192, 0, 2, 1}, FORGED[] = {203, 0, 113, 66};

static int udp, other_port, listener, connections[CONNECTIONS], connected;
static uint64_t rng_state, forged, over_tcp;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint16_t random_id(void) { /* xorshift64 */
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint16_t)(rng_state >> 24);
}

static int open_socket(int kind, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int made = socket(AF_INET, kind, 0), yes = 1;
    address.sin_port = htons((unsigned short)port);
    setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (made < 0 || bind(made, (struct sockaddr *)&address, sizeof address) < 0) die("forge: bind");
    return made;
}

/* Writes the answer to a query and returns its size; 0 if the query cannot be parsed. */
static size_t answer(const unsigned char *query, size_t length, const unsigned char *address, unsigned char *made) {
    static const unsigned char fixed[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4};
    size_t end = HEADER;
    while (end < length && query[end]) end += query[end] + 1u;
    end += 5;
    if (end > length || end + RECORD > LARGEST) return 0;
    int is_address = query[end - 4] == 0 && query[end - 3] == 1;
    memcpy(made, query, end);
    made[2] = 0x81; /* QR, RD */
    made[3] = 0x80; /* RA */
    memset(made + 4, 0, HEADER - 4);
    made[5] = 1;
    if (!is_address) return end;
    made[7] = 1;
    memcpy(made + end, fixed, sizeof fixed);
    memcpy(made + end + sizeof fixed, address, 4);
    return end + RECORD;
}

static void forge(const unsigned char *query, size_t length, struct sockaddr_in *client, uint64_t count) {
    static unsigned char bytes[BATCH][LARGEST];
    struct iovec pieces[BATCH];
    struct mmsghdr messages[BATCH];
    size_t size = answer(query, length, FORGED, bytes[0]);
    for (int i = 0; i < BATCH; i++) {
        memcpy(bytes[i], bytes[0], size);
        pieces[i] = (struct iovec){bytes[i], size};
        messages[i].msg_hdr =
            (struct msghdr){.msg_name = client, .msg_namelen = sizeof *client, .msg_iov = &pieces[i], .msg_iovlen = 1};
    }
    for (uint64_t left = count; left;) {
        int now = left < BATCH ? (int)left : BATCH;
        memcpy(bytes[0], query, 2);
        if (sendmmsg(other_port, messages, 1, 0) != 1) die("forge: send");
        forged++;
        left--;
        for (int i = 1; i < now; i++) {
            uint16_t id = random_id();
            bytes[i][0] = (unsigned char)(id >> 8);
            bytes[i][1] = (unsigned char)id;
        }
        for (int sent = 1; sent < now;) {
            int more = sendmmsg(udp, messages + sent, (unsigned)(now - sent), 0);
            if (more <= 0) die("forge: send");
            sent += more;
            forged += (uint64_t)more;
            left -= (uint64_t)more;
        }
    }
}

static void answer_udp(uint64_t count) {
    unsigned char query[LARGEST], correct[LARGEST];
    struct sockaddr_in client;
    socklen_t room = sizeof client;
    ssize_t length = recvfrom(udp, query, sizeof query, 0, (struct sockaddr *)&client, &room);
    if (length < HEADER) return;
    size_t size = answer(query, (size_t)length, CORRECT, correct);
    if (!size) return;
    if (correct[7]) forge(query, (size_t)length, &client, count);
    sendto(udp, correct, size, 0, (struct sockaddr *)&client, room);
}

/* Answers one query of a connection; returns 0 if the connection has ended. */
static int answer_tcp(int connection) {
    unsigned char query[LARGEST], correct[PREFIX + LARGEST];
    if (recv(connection, query, PREFIX, MSG_WAITALL) != PREFIX) return 0;
    ssize_t length = query[0] << 8 | query[1];
    if (length < HEADER || length > LARGEST || recv(connection, query, (size_t)length, MSG_WAITALL) != length) return 0;
    size_t size = answer(query, (size_t)length, CORRECT, correct + PREFIX);
    if (!size) return 0;
    correct[0] = (unsigned char)(size >> 8);
    correct[1] = (unsigned char)size;
    over_tcp++;
    return send(connection, correct, PREFIX + size, MSG_NOSIGNAL) == (ssize_t)(PREFIX + size);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fputs("usage: forge PORT COUNT\n", stderr);
        return 2;
    }
    int port = atoi(argv[1]);
    uint64_t count = strtoull(argv[2], NULL, 10);
    if (getrandom(&rng_state, sizeof rng_state, 0) != sizeof rng_state) die("forge: getrandom");
    rng_state |= 1;
    udp = open_socket(SOCK_DGRAM, port);
    other_port = open_socket(SOCK_DGRAM, 0);
    listener = open_socket(SOCK_STREAM, port);
    if (listen(listener, CONNECTIONS) < 0) die("forge: listen");
    for (;;) {
        struct pollfd polled[2 + CONNECTIONS] = {{.fd = udp, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
        int waiting = connected;
        for (int i = 0; i < waiting; i++) polled[2 + i] = (struct pollfd){.fd = connections[i], .events = POLLIN};
        if (poll(polled, (nfds_t)(2 + waiting), -1) < 0) continue;
        for (int i = waiting - 1; i >= 0; i--)
            if (polled[2 + i].revents && !answer_tcp(connections[i])) {
                close(connections[i]);
                connections[i] = connections[--connected];
            }
        if (polled[0].revents) answer_udp(count);
        if (polled[1].revents && connected < CONNECTIONS) {
            int made = accept(listener, NULL, NULL);
            if (made >= 0) connections[connected++] = made;
        }
        printf("%lu %lu\n", forged, over_tcp);
        fflush(stdout);
    }
}
