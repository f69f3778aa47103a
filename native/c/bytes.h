/* Bytes that grow, and how numbers and texts are written into them.
 *
 * `put...` functions write at `o` and return the place behind; the caller has reserved the room. How much the longest
 * of each can take is said beside it. */
#ifndef BYTES_H
#define BYTES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "abi3.h"

#define INT_MAX_BYTES 20    /* a 64-bit number in decimal */
#define VARINT_MAX_BYTES 10 /* one as a varint */
#define JSON_MAX 6          /* bytes of JSON for one byte of text: \u001f */

typedef struct {
    uint8_t *at;
    size_t size, room;
} Buffer;

/* Bytes of somebody else. size -1: no text (null); `at` means nothing then. */
typedef struct {
    const uint8_t *at;
    ssize_t size;
} Text;

/* What a bytes object holds, as long as that lives; false with an error where it is none. */
static bool text_in(PyObject *bytes, Text *t) {
    char *at;
    if (PyBytes_AsStringAndSize(bytes, &at, &t->size)) return false;
    t->at = (const uint8_t *)at;
    return true;
}

/* Room for `more` bytes behind `size`; false where there is no memory, and nothing has changed then. */
static bool reserve(Buffer *b, size_t more) {
    if (b->room - b->size >= more) return true;
    size_t room = b->room ? b->room : 4096;
    while (room - b->size < more) room *= 2;
    uint8_t *at = realloc(b->at, room);
    if (!at) return false;
    b->at = at;
    b->room = room;
    return true;
}

static inline uint8_t *put(uint8_t *o, const void *from, size_t size) {
    if (size) memcpy(o, from, size);
    return o + size;
}
#define PUT_LITERAL(o, text) put(o, text, sizeof(text) - 1)

static inline uint8_t *put_int(uint8_t *o, int64_t value) {
    uint8_t text[INT_MAX_BYTES], *start = text + sizeof text;
    uint64_t left = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    do *--start = (uint8_t)('0' + left % 10);
    while (left /= 10);
    if (value < 0) *o++ = '-';
    return put(o, start, (size_t)(text + sizeof text - start));
}

/* Kafka's varints: zigzag, then seven bits a byte. */
static inline uint64_t zigzag(int64_t value) { return ((uint64_t)value << 1) ^ (value < 0 ? UINT64_MAX : 0); }

static inline size_t varint_size(int64_t value) {
    uint64_t left = zigzag(value);
    size_t size = 1;
    while (left >>= 7) size++;
    return size;
}

static inline uint8_t *put_varint(uint8_t *o, int64_t value) {
    uint64_t left = zigzag(value);
    for (; left >= 0x80; left >>= 7) *o++ = (uint8_t)(left | 0x80);
    *o++ = (uint8_t)left;
    return o;
}

/* The inside of a JSON string, as msgspec writes it: at most JSON_MAX bytes a byte. */
static uint8_t *put_json_inside(uint8_t *o, Text t) {
    static const char HEX[] = "0123456789abcdef";
    for (const uint8_t *p = t.at, *end = p + t.size; p < end; p++) {
        if (*p >= 0x20 && *p != '"' && *p != '\\') {
            *o++ = *p;
            continue;
        }
        *o++ = '\\';
        switch (*p) {
        case '"': case '\\': *o++ = *p; break;
        case '\n': *o++ = 'n'; break;
        case '\r': *o++ = 'r'; break;
        case '\t': *o++ = 't'; break;
        case '\b': *o++ = 'b'; break;
        case '\f': *o++ = 'f'; break;
        default: o = PUT_LITERAL(o, "u00"); *o++ = (uint8_t)HEX[*p >> 4]; *o++ = (uint8_t)HEX[*p & 15];
        }
    }
    return o;
}

static uint8_t *put_json(uint8_t *o, Text t) {
    *o++ = '"';
    o = put_json_inside(o, t);
    *o++ = '"';
    return o;
}

/* An id as it stands in a joined key (models/ids.py): at most 2 bytes a byte. */
static uint8_t *put_escaped_id(uint8_t *o, Text t) {
    for (const uint8_t *p = t.at, *end = p + t.size; p < end; p++) {
        if (*p == '|' || *p == '\\') *o++ = '\\';
        *o++ = *p;
    }
    return o;
}

/* MessagePack, in the shortest form, as msgspec writes it: at most 5 bytes beside the text, 9 for a number. */
static uint8_t *put_big_endian(uint8_t *o, uint64_t value, int bytes) {
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) *o++ = (uint8_t)(value >> shift);
    return o;
}

static uint8_t *put_packed_int(uint8_t *o, int64_t value) {
    if (value >= -32 && value < 128) {
        *o++ = (uint8_t)value;
        return o;
    }
    uint64_t magnitude = value < 0 ? ~(uint64_t)value << 1 : (uint64_t)value;
    int power = magnitude < 1u << 8 ? 0 : magnitude < 1u << 16 ? 1 : magnitude < 1ull << 32 ? 2 : 3;
    *o++ = (uint8_t)((value < 0 ? 0xd0 : 0xcc) + power);
    return put_big_endian(o, (uint64_t)value, 1 << power);
}

static uint8_t *put_packed_text(uint8_t *o, Text t) {
    if (t.size < 0) {
        *o++ = 0xc0;
        return o;
    }
    if (t.size < 32) *o++ = (uint8_t)(0xa0 | t.size);
    else if (t.size < 1 << 8) { *o++ = 0xd9; *o++ = (uint8_t)t.size; }
    else if (t.size < 1 << 16) { *o++ = 0xda; o = put_big_endian(o, (uint64_t)t.size, 2); }
    else { *o++ = 0xdb; o = put_big_endian(o, (uint64_t)t.size, 4); }
    return put(o, t.at, (size_t)t.size);
}

#endif
