/* One request, sent again and again over kept HTTP/1.1 connections by one thread.
 *
 *   loadgen PORT REQUEST_FILE CONNECTIONS WARM_UP_S SECONDS RATE
 *
 * RATE 0 is a closed loop: each connection sends its next request when it has its answer. Otherwise
 * an open loop: Poisson arrivals, RATE a second, each on a free connection; an arrival that finds
 * none waits, and its latency counts from when it should have been sent. Prints one JSON line.
 * Answers must have Content-Length or be chunked.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 1 << 16 };

struct connection {
    int socket;
    int waiting;      /* 1 while an answer is due */
    size_t sent;      /* bytes of the request */
    size_t head;      /* bytes in `buffer` while the answer's head is incomplete */
    long long left;   /* bytes of the answer's body still to come; -1 before its head is whole */
    int chunked;      /* 1 where the body ends with an empty chunk */
    char tail[5];     /* the last bytes of a chunked body */
    int status;
    double since;     /* when the request was due */
    char buffer[HEAD + 1];
};

static char *request;
static size_t request_bytes;
static int port, poll_fd;
static long answered, refused, broken;
static double measured_from, measured_until;
static double *latencies;
static size_t kept, room;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(struct connection *c, int how, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poll_fd, how, c->socket, &event)) die("epoll_ctl");
}

static void open_connection(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    c->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (c->socket < 0 || connect(c->socket, (struct sockaddr *)&address, sizeof address))
        die("connect");
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->socket, F_SETFL, O_NONBLOCK);
    c->waiting = 0;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

/* What is left of the request, as far as the socket takes it. 0 where the connection is broken. */
static int push(struct connection *c) {
    while (c->sent < request_bytes) {
        ssize_t n = send(c->socket, request + c->sent, request_bytes - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return 1;
        }
        if (n < 0) return 0;
        c->sent += (size_t)n;
    }
    return 1;
}

static void begin(struct connection *c, double due) {
    c->waiting = 1;
    c->sent = c->head = 0;
    c->left = -1;
    c->chunked = 0;
    c->since = due;
    if (push(c)) return;
    close(c->socket); /* the server had closed it: once more on a new one */
    open_connection(c);
    c->waiting = 1;
    if (!push(c)) broken++;
}

static void keep(double latency) {
    if (kept == room) {
        room = room ? 2 * room : 1 << 16;
        latencies = realloc(latencies, room * sizeof *latencies);
        if (!latencies) die("realloc");
    }
    latencies[kept++] = latency;
}

static void finish(struct connection *c) {
    double end = now();
    c->waiting = 0;
    if (end < measured_from || end > measured_until) return;
    if (c->status >= 200 && c->status < 300) {
        answered++;
        keep(end - c->since);
    } else {
        refused++;
    }
}

/* Take in `n` more bytes of a chunked body; 1 where they end it. */
static int chunk(struct connection *c, const char *bytes, size_t n) {
    size_t keep = n < 5 ? 5 - n : 0, fresh = n < 5 ? n : 5;
    memmove(c->tail, c->tail + 5 - keep, keep);
    memcpy(c->tail + keep, bytes + n - fresh, fresh);
    return !memcmp(c->tail, "0\r\n\r\n", 5);
}

/* Read what is there. 1 where the answer is whole, 0 where more must come, -1 at the end. */
static int pull(struct connection *c) {
    static char body[1 << 20];
    for (;;) {
        char *into = c->left < 0 ? c->buffer + c->head : body;
        size_t most = c->left < 0 ? HEAD - c->head : sizeof body;
        ssize_t n = recv(c->socket, into, most, 0);
        if (n < 0 && errno == EAGAIN) return 0;
        if (n <= 0) return -1;
        if (c->left >= 0 && c->chunked) {
            if (chunk(c, body, (size_t)n)) return 1;
            continue;
        } else if (c->left >= 0) {
            c->left -= n;
        } else {
            c->head += (size_t)n;
            c->buffer[c->head] = 0;
            char *end = strstr(c->buffer, "\r\n\r\n");
            if (!end && c->head == HEAD) return -1;
            if (!end) continue;
            char *length = strcasestr(c->buffer, "\r\ncontent-length:");
            char *chunked = strcasestr(c->buffer, "\r\ntransfer-encoding: chunked");
            c->status = atoi(c->buffer + 9);
            if (chunked && chunked <= end) {
                size_t rest = (size_t)(c->buffer + c->head - end - 4);
                c->chunked = 1;
                c->left = 0;
                memset(c->tail, 0, sizeof c->tail);
                if (rest && chunk(c, end + 4, rest)) return 1;
                continue;
            }
            if (!length || length > end) return -1;
            c->left = atoll(length + 17) - (long long)(c->buffer + c->head - end - 4);
        }
        if (c->left == 0) return 1;
        if (c->left < 0) return -1;
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile_ms(double q) {
    if (!kept) return 0;
    size_t rank = (size_t)ceil(q * (double)kept);
    return latencies[rank ? rank - 1 : 0] * 1e3;
}

/* Seconds to the next arrival of a Poisson process; splitmix64, always the same seed. */
static double gap(double rate) {
    static uint64_t state = 42;
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return -log(((double)(z >> 11) + 0.5) * 0x1p-53) / rate;
}

int main(int count, char **words) {
    if (count != 7) return fprintf(stderr, "see the first lines of loadgen.c\n"), 2;
    int connections = atoi(words[3]);
    double warm_up = atof(words[4]), seconds = atof(words[5]), rate = atof(words[6]);
    port = atoi(words[1]);
    FILE *file = fopen(words[2], "rb");
    if (!file) die(words[2]);
    fseek(file, 0, SEEK_END);
    request_bytes = (size_t)ftell(file);
    rewind(file);
    request = malloc(request_bytes);
    if (!request || fread(request, 1, request_bytes, file) != request_bytes) die(words[2]);
    fclose(file);

    poll_fd = epoll_create1(0);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    struct connection **idle = calloc((size_t)connections, sizeof *idle);
    if (!all || !idle) die("calloc");
    int idle_count = 0;
    for (int i = 0; i < connections; i++) open_connection(&all[i]);
    double start = now(), due = start;
    measured_from = start + warm_up;
    measured_until = measured_from + seconds;
    for (int i = 0; i < connections; i++) {
        if (rate > 0)
            idle[idle_count++] = &all[i];
        else
            begin(&all[i], now());
    }
    struct epoll_event events[256];
    for (double t = now(); t < measured_until; t = now()) {
        for (; rate > 0 && due <= t && idle_count; due += gap(rate)) begin(idle[--idle_count], due);
        double wait = rate > 0 && idle_count ? due - t : measured_until - t;
        if (wait < 0) wait = 0;
        struct timespec limit = {(time_t)wait, (long)((wait - floor(wait)) * 1e9)};
        int n = epoll_pwait2(poll_fd, events, 256, &limit, NULL);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                if (push(c) && c->sent == request_bytes) watch(c, EPOLL_CTL_MOD, EPOLLIN);
            }
            if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
            int was_waiting = c->waiting, whole = pull(c);
            if (whole == 0) continue;
            if (whole > 0) {
                finish(c);
            } else {
                broken += was_waiting;
                close(c->socket);
                open_connection(c);
                if (!was_waiting) continue;
            }
            if (rate > 0)
                idle[idle_count++] = c;
            else
                begin(c, now());
        }
    }
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    double cpu = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                 (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
    qsort(latencies, kept, sizeof *latencies, ascending);
    printf("{\"requests_per_s\": %.1f, \"answered\": %ld, \"refused\": %ld, \"broken\": %ld, "
           "\"p50_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f, \"client_cpu_s\": %.3f}\n",
           (double)answered / seconds, answered, refused, broken, quantile_ms(0.5),
           quantile_ms(0.99), quantile_ms(1), cpu);
    return 0;
}
