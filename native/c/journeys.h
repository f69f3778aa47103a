/* A journey from its frames: which touches there are, in order, and which of them count for a conversion. */
#ifndef JOURNEYS_H
#define JOURNEYS_H

#include "abi3.h"
#include "bytes.h"

/* The texts of a frame in their order (models/facts.py, JourneyTouch); the person under account journeys only. */
enum { KIND, CHANNEL_, SOURCE_, MEDIUM_, CAMPAIGN_, CONTENT_, TERM_, PERSON_, FRAME_TEXTS };

#define JOURNEY_BYTES_MAX (1 << 20) /* of frames: all scratch memory is bounded by it, and stays below 20 MiB */
#define TOUCHES_MAX 500
#define TIME_MS_MAX (1ll << 52)     /* times and their differences are exact doubles */

typedef struct {
    int64_t occurred_ms, record_ms;
    Text id, texts[FRAME_TEXTS];
    size_t escaped_id, escaped_id_size, part, part_size; /* in the buffer `parts`, of credits.h */
} JourneyTouch;

/* The touches of one journey at a time. They point into the bytes objects that the arguments of the call keep alive. */
static struct {
    JourneyTouch touches[TOUCHES_MAX];
    size_t count, bytes;
} journey;

static bool is_utf8(Text t) {
    for (ssize_t i = 0; i < t.size; i++) {
        if (t.at[i] < 0x80) continue;
        PyObject *text = PyUnicode_DecodeUTF8((const char *)t.at, t.size, NULL);
        if (!text) PyErr_Clear();
        else Py_DecRef(text);
        return text != NULL;
    }
    return true;
}

static uint64_t big_endian(const uint8_t *p, int bytes) {
    uint64_t value = 0;
    while (bytes--) value = value << 8 | *p++;
    return value;
}

/* A text or null of MessagePack. NULL: something else, or not whole. */
static const uint8_t *read_packed_text(const uint8_t *p, const uint8_t *end, Text *t) {
    if (p >= end) return NULL;
    uint8_t mark = *p++;
    int size_bytes = mark == 0xd9 ? 1 : mark == 0xda ? 2 : mark == 0xdb ? 4 : 0;
    if (mark == 0xc0) {
        *t = (Text){NULL, -1};
        return p;
    }
    if (!size_bytes && (mark & 0xe0) != 0xa0) return NULL;
    if (end - p < size_bytes) return NULL;
    t->size = size_bytes ? (ssize_t)big_endian(p, size_bytes) : mark & 31;
    t->at = p += size_bytes;
    return end - p < t->size || !is_utf8(*t) ? NULL : p + t->size;
}

/* A whole number of MessagePack below TIME_MS_MAX. NULL: something else, or not whole. */
static const uint8_t *read_packed_int(const uint8_t *p, const uint8_t *end, int64_t *value) {
    if (p >= end) return NULL;
    uint8_t mark = *p++;
    if (mark < 0x80 || mark >= 0xe0) {
        *value = (int8_t)mark;
        return p;
    }
    if (mark < 0xcc || mark > 0xd3) return NULL;
    int bytes = 1 << (mark & 3);
    if (end - p < bytes) return NULL;
    uint64_t read = big_endian(p, bytes);
    bool is_negative = mark >= 0xd0 && read >> (8 * bytes - 1);
    if (is_negative && bytes < 8) read |= UINT64_MAX << 8 * bytes;
    if ((is_negative ? ~read : read) >= TIME_MS_MAX) return NULL;
    *value = is_negative ? -(int64_t)~read - 1 : (int64_t)read;
    return p + bytes;
}

/* Add the touches of some frames to the journey. False: too many, or not what is written here. */
static bool add_frames(PyObject *frames) {
    char *start;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(frames, &start, &size)) return false;
    const uint8_t *p = (uint8_t *)start, *end = p + size;
    journey.bytes += (size_t)size;
    if (journey.bytes > JOURNEY_BYTES_MAX) return false;
    while (p < end) {
        if (journey.count == TOUCHES_MAX) return false;
        JourneyTouch *t = &journey.touches[journey.count++];
        int64_t lag_ms;
        uint8_t mark = *p++;
        if ((mark != 0x9b && mark != 0x9c) || p >= end || *p++ != 0xc0) return false;
        if (!(p = read_packed_text(p, end, &t->id)) || t->id.size < 0) return false;
        if (!(p = read_packed_int(p, end, &t->occurred_ms)) || !(p = read_packed_int(p, end, &lag_ms))) return false;
        t->record_ms = t->occurred_ms + lag_ms;
        for (int i = KIND; i < PERSON_; i++)
            if (!(p = read_packed_text(p, end, &t->texts[i])) || (i <= CHANNEL_ && t->texts[i].size < 0)) return false;
        t->texts[PERSON_] = (Text){NULL, -1};
        if (mark == 0x9c && !(p = read_packed_text(p, end, &t->texts[PERSON_]))) return false;
    }
    return true;
}

/* Whether no two touches have one id. */
static bool is_unique(void) {
    static uint16_t places[4 * TOUCHES_MAX]; /* by hash; a touch's place + 1, or 0 */
    size_t room = 4 * journey.count;
    memset(places, 0, room * sizeof *places);
    for (size_t i = 0; i < journey.count; i++) {
        Text id = journey.touches[i].id;
        uint32_t hash = 2166136261u; /* FNV-1a */
        for (ssize_t j = 0; j < id.size; j++) hash = (hash ^ id.at[j]) * 16777619u;
        size_t at = hash % room;
        for (; places[at]; at = at + 1 < room ? at + 1 : 0) {
            Text other = journey.touches[places[at] - 1].id;
            if (other.size == id.size && !memcmp(other.at, id.at, (size_t)id.size)) return false;
        }
        places[at] = (uint16_t)(i + 1);
    }
    return true;
}

/* By event time, then id: the order of UTF-8 bytes is that of characters. */
static int in_order(const void *a, const void *b) {
    const JourneyTouch *x = a, *y = b;
    if (x->occurred_ms != y->occurred_ms) return x->occurred_ms < y->occurred_ms ? -1 : 1;
    size_t shared = (size_t)(x->id.size < y->id.size ? x->id.size : y->id.size);
    int order = memcmp(x->id.at, y->id.at, shared);
    return order ? order : x->id.size < y->id.size ? -1 : x->id.size > y->id.size;
}

static void sort_touches(void) {
    JourneyTouch *t = journey.touches;
    for (size_t i = 1; i < journey.count; i++)
        if (in_order(t + i - 1, t + i) > 0) {
            qsort(t, journey.count, sizeof *t, in_order);
            return;
        }
}

typedef struct {
    long long latest_ms;            /* event time of the latest conversion that the journey has */
    long long first_ms, last_ms;    /* record times of touches that count */
    long long since_ms, occurred_ms; /* event times of touches that count; the last is the conversion's own */
} Window;

/* The touches of a journey in order, those only that count. `blobs`: the state, which is not looked at, and what the
 * keys of touches hold (None: nothing); `arrivals`: touches of this step. False: none, more than `most`, a touch that
 * comes twice or may change what was published, or anything else that is for Python to judge. */
static bool read_journey(PyObject *blobs, PyObject *arrivals, const Window *w, size_t most) {
    journey.count = journey.bytes = 0;
    for (Py_ssize_t i = 1; i < PyList_Size(blobs); i++) {
        PyObject *blob = PyList_GetItem(blobs, i);
        if (blob != Py_None && !add_frames(blob)) return false;
    }
    for (Py_ssize_t i = 0; i < PyList_Size(arrivals); i++) {
        size_t before = journey.count;
        PyObject *frame = PyTuple_GetItem(PyList_GetItem(arrivals, i), 4);
        if (!frame || !add_frames(frame) || journey.count != before + 1) return false;
        if (journey.touches[before].occurred_ms <= w->latest_ms) return false;
    }
    if (PyErr_Occurred() || !journey.count || journey.count > most || !is_unique()) return false;
    sort_touches();
    size_t kept = 0;
    for (size_t i = 0; i < journey.count; i++) {
        const JourneyTouch *t = &journey.touches[i];
        if (t->record_ms < w->first_ms || t->record_ms > w->last_ms) continue;
        if (t->occurred_ms < w->since_ms || t->occurred_ms > w->occurred_ms) continue;
        if (kept != i) journey.touches[kept] = *t;
        kept++;
    }
    journey.count = kept;
    return kept > 0;
}

#endif
