/* floor: the least a one-core epoll server can do for echo and broadcast.
 *   floor PORT [coalesce] [ping=SECS]
 * /echo      sends back what it gets, one send() per recv()
 * /room/N    member of room N
 * /pub/N     every message goes to all members of room N, one send() per member and message;
 *            with "coalesce" all messages read in one epoll round go out with one send() per member
 * with "ping=SECS" every member gets a ping every SECS, spread evenly over that time: one wake-up
 *            every 16 ms, one send() of two bytes per ping; pongs are read and forgotten
 * No limits, no time-outs, no validation beyond what framing needs: a yardstick, not a server. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { UPGRADE, ECHO, MEMBER, PUBLISHER };
#define PEND_MAX (1 << 20)
typedef struct {
    int fd, kind, room, place, writing;
    uint32_t ncarry, npend;
    char *carry, *pend;
} Conn;
typedef struct {
    Conn **m;
    int n, cap, dirty, pinged;
    char *buf;
    size_t nbuf, capbuf;
} Room;

static Room *rooms;
static int nrooms, ep, coalesce;
static int *dirty, ndirty, nmembers;
static double ping_every;
static char rb[1 << 20], ob[(1 << 20) + 4096];

static uint32_t rol(uint32_t x, int n) { return x << n | x >> (32 - n); }
static void sha1(const uint8_t *in, size_t n, uint8_t out[20]) {
    uint8_t m[192] = {0};
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
    memcpy(m, in, n);
    m[n] = 0x80;
    size_t total = (n + 9 + 63) / 64 * 64;
    uint64_t bits = n * 8;
    for (int i = 0; i < 8; i++) m[total - 1 - i] = bits >> (8 * i);
    for (size_t o = 0; o < total; o += 64) {
        for (int i = 0; i < 16; i++) {
            uint8_t *b = m + o + 4 * i;
            w[i] = (uint32_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
        }
        for (int i = 16; i < 80; i++) w[i] = rol(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f, k;
            if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
            else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
            else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
            else f = b ^ c ^ d, k = 0xCA62C1D6;
            uint32_t t = rol(a, 5) + f + e + k + w[i];
            e = d, d = c, c = rol(b, 30), b = a, a = t;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 5; i++) for (int j = 0; j < 4; j++) out[4 * i + j] = h[i] >> (24 - 8 * j);
}
static void accept_key(const char *key, int n, char out[29]) {
    static const char G[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    static const char T[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t in[128], d[21] = {0};
    memcpy(in, key, n);
    memcpy(in + n, G, 36);
    sha1(in, n + 36, d);
    for (int i = 0, o = 0; i < 21; i += 3, o += 4) {
        uint32_t v = d[i] << 16 | d[i + 1] << 8 | d[i + 2];
        for (int j = 0; j < 4; j++) out[o + j] = T[v >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

static void drop(Conn *c) {
    if (c->kind == MEMBER) {
        Room *r = &rooms[c->room];
        Conn *last = r->m[--r->n];
        r->m[c->place] = last;
        last->place = c->place;
        nmembers--;
    }
    close(c->fd);
    free(c->carry);
    free(c->pend);
    c->fd = -1; /* the struct itself is left: an event for it may still be in this round */
}
static void want(Conn *c, int write) {
    if (c->writing == write) return;
    c->writing = write;
    struct epoll_event e = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static void put(Conn *c, const char *b, size_t n) {
    if (!c->npend) {
        ssize_t w = send(c->fd, b, n, MSG_NOSIGNAL);
        if (w == (ssize_t)n) return;
        if (w > 0) b += w, n -= w;
    }
    if (c->npend + n > PEND_MAX) { /* too slow: reset it; its read side will clean up */
        shutdown(c->fd, SHUT_RDWR);
        return;
    }
    c->pend = realloc(c->pend, c->npend + n);
    memcpy(c->pend + c->npend, b, n);
    c->npend += n;
    want(c, 1);
}
static void flush(Conn *c) {
    ssize_t w = send(c->fd, c->pend, c->npend, MSG_NOSIGNAL);
    if (w <= 0) return;
    c->npend -= w;
    memmove(c->pend, c->pend + w, c->npend);
    if (!c->npend) free(c->pend), c->pend = 0, want(c, 0);
}
static Room *room(int i) {
    if (i >= nrooms) {
        int n = i + 64;
        rooms = realloc(rooms, n * sizeof *rooms);
        dirty = realloc(dirty, n * sizeof *dirty);
        memset(rooms + nrooms, 0, (n - nrooms) * sizeof *rooms);
        nrooms = n;
    }
    return &rooms[i];
}
static int upgrade(Conn *c, char *b, size_t n) {
    char *end = memmem(b, n, "\r\n\r\n", 4);
    if (!end) return 0;
    char *k = memmem(b, n, "Sec-WebSocket-Key: ", 19);
    if (!k || n < 6) return -1;
    k += 19;
    char *ke = memchr(k, '\r', end + 2 - k);
    if (!ke || ke - k > 64) return -1;
    char acc[29], out[256];
    accept_key(k, ke - k, acc);
    char *path = b + 4;
    if (!strncmp(path, "/echo", 5)) c->kind = ECHO;
    else if (!strncmp(path, "/room/", 6)) c->kind = MEMBER, c->room = atoi(path + 6);
    else if (!strncmp(path, "/pub/", 5)) c->kind = PUBLISHER, c->room = atoi(path + 5);
    else return -1;
    if (c->kind != ECHO) {
        Room *r = room(c->room);
        if (c->kind == MEMBER) {
            if (r->n == r->cap) {
                r->cap = r->cap * 2 + 16;
                r->m = realloc(r->m, r->cap * sizeof *r->m);
            }
            c->place = r->n;
            r->m[r->n++] = c;
            nmembers++;
        }
    }
    int l = sprintf(out,
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                    acc);
    put(c, out, l);
    return end + 4 - b;
}
static size_t header(char *o, int op, size_t n) {
    o[0] = 0x80 | op;
    if (n < 126) { o[1] = n; return 2; }
    if (n < 65536) { o[1] = 126; o[2] = n >> 8; o[3] = n; return 4; }
    o[1] = 127;
    for (int i = 0; i < 8; i++) o[2 + i] = (uint64_t)n >> (56 - 8 * i);
    return 10;
}
/* Returns how many bytes were used, or -1 to drop the connection. */
static ssize_t frames(Conn *c, char *b, size_t n) {
    size_t at = 0, o = 0;
    while (n - at >= 6) {
        uint8_t *p = (uint8_t *)b + at;
        size_t h = 6, len = p[1] & 127;
        if (!(p[1] & 128)) return -1;
        if (len == 126) {
            h = 8;
            if (n - at < h) break;
            len = p[2] << 8 | p[3];
        } else if (len == 127) {
            h = 14;
            if (n - at < h) break;
            len = 0;
            for (int i = 2; i < 10; i++) len = len << 8 | p[i];
        }
        if (len > sizeof rb / 2) return -1;
        if (n - at < h + len) break;
        int op = p[0] & 15;
        uint64_t k4;
        uint32_t k;
        memcpy(&k, p + h - 4, 4);
        k4 = (uint64_t)k << 32 | k;
        char *q = b + at + h;
        if (k) {
            size_t i = 0;
            for (; i + 8 <= len; i += 8) {
                uint64_t v;
                memcpy(&v, q + i, 8);
                v ^= k4;
                memcpy(q + i, &v, 8);
            }
            for (; i < len; i++) q[i] ^= ((char *)&k)[i & 3];
        }
        at += h + len;
        if (op == 8) return -1;
        if (op == 9) {
            char f[140];
            if (len > 125) return -1;
            size_t l = header(f, 10, len);
            memcpy(f + l, q, len);
            put(c, f, l + len);
            continue;
        }
        if (op > 2) continue;
        if (c->kind == ECHO) {
            if (o + len + 10 > sizeof ob) put(c, ob, o), o = 0;
            o += header(ob + o, op, len);
            memcpy(ob + o, q, len);
            o += len;
        } else if (c->kind == PUBLISHER) {
            Room *r = &rooms[c->room];
            if (!coalesce) {
                size_t l = header(ob, op, len);
                memcpy(ob + l, q, len);
                for (int i = r->n; i-- > 0;) put(r->m[i], ob, l + len);
            } else {
                if (r->nbuf + len + 10 > r->capbuf) {
                    r->capbuf = (r->nbuf + len + 10) * 2;
                    r->buf = realloc(r->buf, r->capbuf);
                }
                r->nbuf += header(r->buf + r->nbuf, op, len);
                memcpy(r->buf + r->nbuf, q, len);
                r->nbuf += len;
                if (!r->dirty) r->dirty = 1, dirty[ndirty++] = c->room;
            }
        }
    }
    if (o) put(c, ob, o);
    return at;
}
static void readable(Conn *c) {
    memcpy(rb, c->carry, c->ncarry);
    ssize_t r = recv(c->fd, rb + c->ncarry, sizeof rb - c->ncarry, 0);
    if (r == 0 || (r < 0 && errno != EAGAIN)) { drop(c); return; }
    if (r < 0) return;
    size_t n = c->ncarry + r, at = 0;
    if (c->kind == UPGRADE) {
        int u = upgrade(c, rb, n);
        if (u < 0) { drop(c); return; }
        at = u;
    }
    if (c->kind != UPGRADE && at < n) {
        ssize_t u = frames(c, rb + at, n - at);
        if (u < 0) { drop(c); return; }
        at += u;
    }
    if (n - at != c->ncarry) {
        if (n == at) free(c->carry), c->carry = 0;
        else c->carry = realloc(c->carry, n - at);
    }
    c->ncarry = n - at;
    memcpy(c->carry, rb + at, c->ncarry);
}
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
/* Pings the members that are due, room after room, each room in its order. */
static void ping_due(void) {
    static double last, owed;
    static int at;
    double t = now();
    if (last) owed += (t - last) / ping_every * nmembers;
    last = t;
    for (; owed >= 1 && nmembers; owed--) {
        while (rooms[at].pinged >= rooms[at].n) rooms[at].pinged = 0, at = (at + 1) % nrooms;
        put(rooms[at].m[rooms[at].pinged++], "\x89\0", 2);
    }
}
int main(int ac, char **av) {
    int port = ac > 1 ? atoi(av[1]) : 9000;
    for (int i = 2; i < ac; i++) {
        if (!strcmp(av[i], "coalesce")) coalesce = 1;
        else if (!strncmp(av[i], "ping=", 5)) ping_every = atof(av[i] + 5);
    }
    struct rlimit rl;
    getrlimit(RLIMIT_NOFILE, &rl);
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    ep = epoll_create1(0); /* before listening, so that who can connect sees all files open */
    if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) { perror("listen"); return 1; }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = 0}, ev[1024];
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    room(0);
    double wake = 0;
    for (;;) {
        int n = epoll_wait(ep, ev, 1024, ping_every ? 16 : -1);
        if (ping_every && now() >= wake) ping_due(), wake = now() + 0.016;
        for (int i = 0; i < n; i++) {
            Conn *c = ev[i].data.ptr;
            if (!c) {
                int fd;
                while ((fd = accept4(ls, 0, 0, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    Conn *k = calloc(1, sizeof *k);
                    k->fd = fd;
                    struct epoll_event x = {.events = EPOLLIN, .data.ptr = k};
                    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &x);
                }
                continue;
            }
            if (c->fd < 0) continue;
            if (ev[i].events & EPOLLOUT) flush(c);
            if (ev[i].events & ~EPOLLOUT) readable(c);
        }
        for (int i = 0; i < ndirty; i++) {
            Room *r = &rooms[dirty[i]];
            for (int j = r->n; j-- > 0;) put(r->m[j], r->buf, r->nbuf);
            r->nbuf = r->dirty = 0;
        }
        ndirty = 0;
    }
}
