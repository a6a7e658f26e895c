/* A slow upstream, in whose name answers are forged until it says what is right.
 *
 * forge PORT COUNT: at 127.0.0.1:PORT, over UDP and TCP, until it is killed.
 *
 * To a query for an address over UDP come COUNT forged answers: they come from where it was sent and go to the
 * port that waits for the answer, as if the forger had guessed all of that, but the id, which is drawn by lot.
 * One of BATCH has the right id, and comes from another port instead. Behind them comes the right answer, and
 * over TCP nothing else does. Other types are answered at once, with nothing. After each query a line tells how
 * many answers were forged so far, and how many questions over TCP were answered.
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

static const unsigned char RIGHT[] = {192, 0, 2, 1}, FORGED[] = {203, 0, 113, 66};

static int udp, elsewhere, listener, connections[CONNECTIONS], connected;
static uint64_t dice, forged, by_stream;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint16_t random_id(void) { /* xorshift64 */
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (uint16_t)(dice >> 24);
}

static int open_socket(int kind, int port) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int made = socket(AF_INET, kind, 0), yes = 1;
    here.sin_port = htons((unsigned short)port);
    setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (made < 0 || bind(made, (struct sockaddr *)&here, sizeof here) < 0) die("forge: bind");
    return made;
}

/* The answer to a query; 0 where that asks for nothing. */
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

static void forge(const unsigned char *query, size_t length, struct sockaddr_in *asker, uint64_t count) {
    static unsigned char bytes[BATCH][LARGEST];
    struct iovec pieces[BATCH];
    struct mmsghdr messages[BATCH];
    size_t size = answer(query, length, FORGED, bytes[0]);
    for (int i = 0; i < BATCH; i++) {
        memcpy(bytes[i], bytes[0], size);
        pieces[i] = (struct iovec){bytes[i], size};
        messages[i].msg_hdr =
            (struct msghdr){.msg_name = asker, .msg_namelen = sizeof *asker, .msg_iov = &pieces[i], .msg_iovlen = 1};
    }
    for (uint64_t left = count; left;) {
        int now = left < BATCH ? (int)left : BATCH;
        memcpy(bytes[0], query, 2);
        if (sendmmsg(elsewhere, messages, 1, 0) != 1) die("forge: send");
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

static void hear(uint64_t count) {
    unsigned char query[LARGEST], right[LARGEST];
    struct sockaddr_in asker;
    socklen_t room = sizeof asker;
    ssize_t length = recvfrom(udp, query, sizeof query, 0, (struct sockaddr *)&asker, &room);
    if (length < HEADER) return;
    size_t size = answer(query, (size_t)length, RIGHT, right);
    if (!size) return;
    if (right[7]) forge(query, (size_t)length, &asker, count);
    sendto(udp, right, size, 0, (struct sockaddr *)&asker, room);
}

/* Whether the connection goes on. */
static int hear_over(int connection) {
    unsigned char query[LARGEST], right[PREFIX + LARGEST];
    if (recv(connection, query, PREFIX, MSG_WAITALL) != PREFIX) return 0;
    ssize_t length = query[0] << 8 | query[1];
    if (length < HEADER || length > LARGEST || recv(connection, query, (size_t)length, MSG_WAITALL) != length) return 0;
    size_t size = answer(query, (size_t)length, RIGHT, right + PREFIX);
    if (!size) return 0;
    right[0] = (unsigned char)(size >> 8);
    right[1] = (unsigned char)size;
    by_stream++;
    return send(connection, right, PREFIX + size, MSG_NOSIGNAL) == (ssize_t)(PREFIX + size);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fputs("usage: forge PORT COUNT\n", stderr);
        return 2;
    }
    int port = atoi(argv[1]);
    uint64_t count = strtoull(argv[2], NULL, 10);
    if (getrandom(&dice, sizeof dice, 0) != sizeof dice) die("forge: getrandom");
    dice |= 1;
    udp = open_socket(SOCK_DGRAM, port);
    elsewhere = open_socket(SOCK_DGRAM, 0);
    listener = open_socket(SOCK_STREAM, port);
    if (listen(listener, CONNECTIONS) < 0) die("forge: listen");
    for (;;) {
        struct pollfd polled[2 + CONNECTIONS] = {{.fd = udp, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
        int waiting = connected;
        for (int i = 0; i < waiting; i++) polled[2 + i] = (struct pollfd){.fd = connections[i], .events = POLLIN};
        if (poll(polled, (nfds_t)(2 + waiting), -1) < 0) continue;
        for (int i = waiting - 1; i >= 0; i--)
            if (polled[2 + i].revents && !hear_over(connections[i])) {
                close(connections[i]);
                connections[i] = connections[--connected];
            }
        if (polled[0].revents) hear(count);
        if (polled[1].revents && connected < CONNECTIONS) {
            int made = accept(listener, NULL, NULL);
            if (made >= 0) connections[connected++] = made;
        }
        printf("%lu %lu\n", forged, by_stream);
        fflush(stdout);
    }
}
