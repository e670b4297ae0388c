/*
 * gdbpacket_hosted.c: the framing of gdb's remote protocol, apart from any socket: bytes in,
 * packets out.
 *
 * Source: Debugging with GDB, appendix E "GDB Remote Serial Protocol", section E.1 "Overview".
 */
#include "monitor/monitor.h"

#include <stdio.h>

enum { IDLE, BODY, ESCAPED, CHECK1, CHECK2 };

static int hex_value(u8 c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static enum mon_gdb_event idle_byte(struct mon_gdb_parser *p, u8 byte) {
    switch (byte) {
    case '$':
        p->state = BODY;
        p->length = 0;
        p->sum = 0;
        p->overflow = false;
        return MON_GDB_MORE;
    case 3:
        return MON_GDB_BREAK;
    case '+':
        return MON_GDB_ACK;
    case '-':
        return MON_GDB_NAK;
    default:
        return MON_GDB_MORE;
    }
}

static void body_byte(struct mon_gdb_parser *p, u8 byte) {
    if (p->length < MON_GDB_PACKET_BYTES)
        p->text[p->length++] = (char)byte;
    else
        p->overflow = true;
}

enum mon_gdb_event mon_gdb_feed(struct mon_gdb_parser *p, u8 byte) {
    switch (p->state) {
    case IDLE:
        return idle_byte(p, byte);
    case BODY:
        if (byte == '#') {
            p->text[p->length] = 0;
            p->state = CHECK1;
            return MON_GDB_MORE;
        }
        p->sum = (u8)(p->sum + byte);
        if (byte == '}')
            p->state = ESCAPED;
        else
            body_byte(p, byte);
        return MON_GDB_MORE;
    case ESCAPED:
        p->sum = (u8)(p->sum + byte);
        body_byte(p, byte ^ 0x20);
        p->state = BODY;
        return MON_GDB_MORE;
    case CHECK1:
        p->state = IDLE;
        if (hex_value(byte) < 0)
            return MON_GDB_BAD;
        p->expected = (u8)(hex_value(byte) << 4);
        p->state = CHECK2;
        return MON_GDB_MORE;
    default:
        p->state = IDLE;
        if (hex_value(byte) < 0 || p->overflow)
            return MON_GDB_BAD;
        return (u8)(p->expected | hex_value(byte)) == p->sum ? MON_GDB_PACKET : MON_GDB_BAD;
    }
}

size_t mon_gdb_frame(const char *body, size_t body_bytes, char *out, size_t out_bytes) {
    size_t n = 0;
    u8 sum = 0;
    if (out_bytes < 5)
        return 0;
    out[n++] = '$';
    for (size_t i = 0; i < body_bytes; i++) {
        u8 c = (u8)body[i];
        bool escape = c == '$' || c == '#' || c == '}' || c == '*';
        if (n + 2 + 4 > out_bytes)
            return 0;
        if (escape) {
            out[n++] = '}';
            sum = (u8)(sum + '}');
            c ^= 0x20;
        }
        out[n++] = (char)c;
        sum = (u8)(sum + c);
    }
    snprintf(out + n, 4, "#%02x", sum);
    return n + 3;
}
