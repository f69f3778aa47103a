/* Touches: from the JSON of a record to the frame that is kept of it, as models/events.py and models/journey.py do it.
 *
 * What is read here is the plain case, which is nearly all records: one flat JSON object in ASCII, its texts without
 * escapes and without spaces at their ends, the time in milliseconds or RFC 3339 with a Z, the channel given. All else is
 * "in doubt" and is left to Python, valid or not: so nothing here ever refuses a record, and nothing is accepted that
 * Python would refuse or read another way. */
#ifndef TOUCHES_H
#define TOUCHES_H

#include "abi3.h"
#include "bytes.h"

#define RECORD_BYTES_MAX 65536 /* longer ones are in doubt; the contract allows a megabyte */
#define ID_BYTES_MAX 256
#define TIME_DIGITS_MAX 18
#define EARLIEST_MS 946684800000 /* as in models/times.py */
#define AHEAD_MAX_MS 172800000
#define RECORD_MS_MAX (1ll << 53)
#define FRAME_MORE_BYTES 128 /* a frame beside its texts: 12 marks of up to 5 bytes, two numbers, "visit" */

enum Field {
    EVENT_ID, PERSON_ID, ACCOUNT_ID, URL, TYPE, CHANNEL, SOURCE, MEDIUM, CAMPAIGN, CONTENT, TERM,
    REFERRER, ANONYMOUS_ID, USER_ID, /* of raw touches */
    TEXTS,       /* so many fields are kept */
    OCCURRED_AT, /* the time */
    UNUSED,      /* must be plain text, and is not looked at */
    DOUBTFUL     /* has rules of its own, which Python knows */
};

#define NAMED(text, field) {text, sizeof(text) - 1, field}

typedef struct {
    const char *text;
    ssize_t size;
    enum Field field;
} Name;

/* The fields that mean something in a touch; all others are UNUSED. */
static const Name TOUCH_NAMES[] = {
    NAMED("event_id", EVENT_ID), NAMED("person_id", PERSON_ID), NAMED("occurred_at", OCCURRED_AT),
    NAMED("type", TYPE), NAMED("channel", CHANNEL), NAMED("source", SOURCE), NAMED("medium", MEDIUM),
    NAMED("campaign", CAMPAIGN), NAMED("content", CONTENT), NAMED("term", TERM), NAMED("url", URL),
    NAMED("account_id", ACCOUNT_ID), NAMED("cost", DOUBTFUL), NAMED("currency", DOUBTFUL),
    NAMED("properties", DOUBTFUL), {NULL, 0, UNUSED},
};

/* `names` end with one without text. */
static enum Field field_named(const Name *names, Text name) {
    for (; names->text; names++)
        if (names->size == name.size && !memcmp(names->text, name.at, (size_t)name.size)) break;
    return names->field;
}

static const uint8_t *skip_blanks(const uint8_t *p, const uint8_t *end) {
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')) p++;
    return p;
}

/* The place behind `expected` and the blanks around it; NULL where something else stands there. */
static const uint8_t *skip(const uint8_t *p, const uint8_t *end, char expected) {
    p = skip_blanks(p, end);
    if (p >= end || *p != (uint8_t)expected) return NULL;
    return skip_blanks(p + 1, end);
}

/* A text in quotes, of printable ASCII (0x7f is allowed in JSON) without escapes. NULL: in doubt. */
static const uint8_t *read_text(const uint8_t *p, const uint8_t *end, Text *t) {
    if (p >= end || *p++ != '"') return NULL;
    t->at = p;
    while (p < end && *p >= 0x20 && *p < 0x80 && *p != '"' && *p != '\\') p++;
    if (p >= end || *p != '"') return NULL;
    t->size = p - t->at;
    if (t->size && (t->at[0] == ' ' || t->at[t->size - 1] == ' ')) return NULL;
    return p + 1;
}

static bool is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

/* `count` digits as a number; the caller has looked that they are digits. */
static int number_of(const uint8_t *p, int count) {
    int found = 0;
    while (count-- > 0) found = 10 * found + (*p++ - '0');
    return found;
}

static bool is_leap(int year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }

/* Days from 1970-01-01 to a date of the Gregorian calendar, from 1970 on; -1 where there is no such date. */
static int64_t days_to(int year, int month, int day) {
    static const int BEFORE[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
    if (year < 1970 || month < 1 || month > 12 || day < 1) return -1;
    int leap_day = is_leap(year) && month == 2;
    if (day > BEFORE[month] - BEFORE[month - 1] + leap_day) return -1;
    int earlier = year - 1; /* 477 leap days are before 1970 */
    int64_t leaps = earlier / 4 - earlier / 100 + earlier / 400 - 477;
    return 365 * (int64_t)(year - 1970) + leaps + BEFORE[month - 1] + (is_leap(year) && month > 2) + day - 1;
}

/* The rest of "2026-03-01T09:00:00.123Z" behind its first quote. Other offsets and spellings are in doubt. */
static const uint8_t *read_utc(const uint8_t *p, const uint8_t *end, int64_t *ms) {
    static const char FORM[] = "dddd-dd-ddTdd:dd:dd";
    enum { SIZE = sizeof FORM - 1 };
    if (end - p < SIZE) return NULL;
    for (int i = 0; i < SIZE; i++)
        if (FORM[i] == 'd' ? !is_digit(p[i]) : p[i] != (uint8_t)FORM[i]) return NULL;
    int64_t days = days_to(number_of(p, 4), number_of(p + 5, 2), number_of(p + 8, 2));
    int hour = number_of(p + 11, 2), minute = number_of(p + 14, 2), second = number_of(p + 17, 2), millis = 0;
    if (days < 0 || hour > 23 || minute > 59 || second > 59) return NULL;
    p += SIZE;
    if (p < end && *p == '.') { /* what is below a millisecond is cut off */
        const uint8_t *start = ++p;
        int weight = 100;
        for (; p < end && is_digit(*p); p++, weight /= 10) millis += weight * (*p - '0');
        if (p == start) return NULL;
    }
    if (end - p < 2 || p[0] != 'Z' || p[1] != '"') return NULL;
    *ms = (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis;
    return p + 2;
}

static const uint8_t *read_time(const uint8_t *p, const uint8_t *end, int64_t *ms) {
    const uint8_t *start = p;
    if (p < end && *p == '"') return read_utc(p + 1, end, ms);
    *ms = 0;
    if (p < end && *p == '0') return NULL;
    while (p < end && *p >= '0' && *p <= '9' && p - start < TIME_DIGITS_MAX) *ms = 10 * *ms + (*p++ - '0');
    return p > start ? p : NULL; /* a digit, dot or e that follows is no comma: in doubt */
}

/* The texts and the time of a touch, also as it is written (`time`); of a name that comes twice the last counts.
 * False: in doubt. */
static bool read_touch(const Name *names, Text json, Text texts[TEXTS], Text *time, int64_t *occurred_ms) {
    const uint8_t *p = json.at, *end = p + json.size;
    bool has_time = false;
    if (!(p = skip(p, end, '{'))) return false;
    for (;;) {
        Text name, value;
        if (!(p = read_text(p, end, &name)) || !(p = skip(p, end, ':'))) return false;
        enum Field field = field_named(names, name);
        if (field == DOUBTFUL) return false;
        if (field == OCCURRED_AT) {
            time->at = p;
            if (!(p = read_time(p, end, occurred_ms))) return false;
            time->size = p - time->at;
            has_time = true;
        } else {
            if (!(p = read_text(p, end, &value))) return false;
            if (field < TEXTS) texts[field] = value;
        }
        p = skip_blanks(p, end);
        if (p >= end) return false;
        if (*p == '}') return has_time && skip_blanks(p + 1, end) == end;
        if (*p != ',') return false;
        p = skip_blanks(p + 1, end);
    }
}

static bool contains(Text t, const char *what) {
    size_t size = strlen(what);
    for (const uint8_t *p = t.at, *end = p + t.size; (size_t)(end - p) >= size; p++) {
        if (!(p = memchr(p, *what, (size_t)(end - p) - size + 1))) return false;
        if (!memcmp(p, what, size)) return true;
    }
    return false;
}

/* Whether the url may say what the record leaves out. */
static bool url_adds(const Text texts[TEXTS]) {
    static const struct { enum Field field; const char *parameter; } NAMES[] = {
        {SOURCE, "utm_source="}, {MEDIUM, "utm_medium="}, {CAMPAIGN, "utm_campaign="}, {CONTENT, "utm_content="},
        {TERM, "utm_term="},
    };
    if (!texts[URL].size || !contains(texts[URL], "utm_")) return false;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (!texts[NAMES[i].field].size && contains(texts[URL], NAMES[i].parameter)) return true;
    return false;
}

static Text or_null(Text t) { return t.size ? t : (Text){NULL, -1}; }

/* The frame of the touch in `value`, put into `frame`; by_account: journeys are kept by account. False: in doubt. */
static bool frame_of(Text value, Text key, int64_t record_ms, bool by_account, Buffer *frame, int64_t *occurred_ms) {
    Text texts[TEXTS] = {{NULL, 0}}, time;
    if (value.size > RECORD_BYTES_MAX || record_ms < 0 || record_ms > RECORD_MS_MAX) return false;
    if (!read_touch(TOUCH_NAMES, value, texts, &time, occurred_ms)) return false;
    Text owner = texts[by_account ? ACCOUNT_ID : PERSON_ID];
    if (!texts[EVENT_ID].size || !texts[PERSON_ID].size || !owner.size || !texts[CHANNEL].size) return false;
    if (texts[EVENT_ID].size > ID_BYTES_MAX || texts[PERSON_ID].size > ID_BYTES_MAX) return false;
    if (texts[ACCOUNT_ID].size > ID_BYTES_MAX) return false;
    if (key.size != owner.size || memcmp(key.at, owner.at, (size_t)key.size)) return false;
    if (*occurred_ms < EARLIEST_MS || *occurred_ms > record_ms + AHEAD_MAX_MS) return false;
    if (url_adds(texts)) return false;
    frame->size = 0;
    if (!reserve(frame, (size_t)value.size + FRAME_MORE_BYTES)) return false;
    uint8_t *o = frame->at;
    *o++ = by_account ? 0x9c : 0x9b; /* an array of 12 or 11 */
    *o++ = 0xc0;
    o = put_packed_text(o, texts[EVENT_ID]);
    o = put_packed_int(o, *occurred_ms);
    o = put_packed_int(o, record_ms - *occurred_ms);
    o = put_packed_text(o, texts[TYPE].size ? texts[TYPE] : (Text){(const uint8_t *)"visit", 5});
    o = put_packed_text(o, texts[CHANNEL]);
    for (int field = SOURCE; field <= TERM; field++) o = put_packed_text(o, or_null(texts[field]));
    if (by_account) o = put_packed_text(o, texts[PERSON_ID]);
    frame->size = (size_t)(o - frame->at);
    return true;
}

static PyObject *name_value, *name_key, *name_timestamp, *name_offset;

/* The attribute as bytes that `*owner` keeps alive; false where it is none. */
static bool bytes_of(PyObject *record, PyObject *name, PyObject **owner, Text *t) {
    *owner = PyObject_GetAttr(record, name);
    return *owner && *owner != Py_None && text_in(*owner, t);
}

/* What a plain touch comes to, as TakenTouch of streams/decode.py. Where fetched records are looked at, its names are
 * those of theirs. */
static PyStructSequence_Field TOUCH_FIELDS[] = {
    {"offset", NULL}, {"timestamp", "record time, epoch ms"}, {"key", NULL}, {"occurred_ms", "event time, epoch ms"},
    {"frame", NULL}, {NULL, NULL},
};
static PyStructSequence_Desc TOUCH = {"touchstream_native.fast.Touch", "A touch that was read.", TOUCH_FIELDS, 5};
static PyObject *touch_type;

/* The parts as a touch; takes the references. */
static PyObject *new_touch(PyObject *parts[5]) {
    bool is_whole = true;
    for (int i = 0; i < 5; i++) is_whole = is_whole && parts[i];
    PyObject *touch = is_whole ? PyStructSequence_New(touch_type) : NULL;
    for (int i = 0; i < 5; i++) {
        if (touch) PyStructSequence_SetItem(touch, i, parts[i]);
        else if (parts[i]) Py_DecRef(parts[i]);
    }
    /* It can be part of no cycle, and there are as many as records: looking through them costs a twentieth. */
    if (touch) PyObject_GC_UnTrack(touch);
    return touch;
}

/* What a record comes to. NULL without an error: in doubt, and Python will meet it again. */
static PyObject *read_record(PyObject *record, bool by_account) {
    static Buffer frame; /* nothing between frame_of and the making of the bytes can run Python code */
    PyObject *value_owner = NULL, *key_owner = NULL, *stamp = PyObject_GetAttr(record, name_timestamp);
    Text value, key;
    int64_t occurred_ms = 0;
    long long record_ms = stamp ? PyLong_AsLongLong(stamp) : -1;
    bool is_plain = stamp && bytes_of(record, name_value, &value_owner, &value) &&
                    bytes_of(record, name_key, &key_owner, &key) &&
                    frame_of(value, key, record_ms, by_account, &frame, &occurred_ms);
    PyObject *kept = is_plain ? PyBytes_FromStringAndSize((char *)frame.at, (Py_ssize_t)frame.size) : NULL;
    if (value_owner) Py_DecRef(value_owner);
    if (!is_plain) {
        if (key_owner) Py_DecRef(key_owner);
        if (stamp) Py_DecRef(stamp);
        PyErr_Clear();
        return NULL;
    }
    PyObject *parts[5] = {PyObject_GetAttr(record, name_offset), stamp, key_owner, PyLong_FromLongLong(occurred_ms),
                          kept};
    return new_touch(parts);
}

/* What a record comes to, always of one type; NULL: in doubt, or an error. */
typedef PyObject *(*Read)(PyObject *record, bool by_account);

/* Appends to `out` what the records from `start` on come to, or came to before; ends before the first in doubt and
 * returns its place, or how many there are. */
static PyObject *taken(PyObject *records, long long start, PyObject *out, PyObject *type, Read read, bool by_account) {
    long long at = start;
    for (; at < PyList_Size(records); at++) {
        PyObject *record = PyList_GetItem(records, at); /* borrowed */
        if (!record) return NULL;
        Py_IncRef(record);
        bool is_read = PyObject_IsInstance(record, type) == 1;
        PyObject *touch = is_read ? record : read(record, by_account);
        if (!is_read) Py_DecRef(record);
        if (!touch) break;
        int failed = PyList_Append(out, touch);
        Py_DecRef(touch);
        if (failed) return NULL;
    }
    return PyErr_Occurred() ? NULL : PyLong_FromLongLong(at);
}

/* touches(records: list, start: int, by_account: bool, out: list) -> int; see `taken` */
static PyObject *touches(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "touches takes 4 arguments");
        return NULL;
    }
    long long start = PyLong_AsLongLong(args[1]);
    bool by_account = PyObject_IsTrue(args[2]) == 1;
    return PyErr_Occurred() ? NULL : taken(args[0], start, args[3], touch_type, read_record, by_account);
}

/* What `read` makes of records, and those in doubt as they are. A record is let go of as soon as it is read, so that the
 * next one finds its memory at hand. */
static PyObject *unpacked(PyObject *records, Read read, bool by_account) {
    PyObject *found = PyObject_GetIter(records), *record;
    PyObject *list = found ? PyList_New(0) : NULL;
    while (list && (record = PyIter_Next(found))) {
        PyObject *touch = read(record, by_account);
        int failed = PyErr_Occurred() || PyList_Append(list, touch ? touch : record);
        if (touch) Py_DecRef(touch);
        Py_DecRef(record);
        if (failed) break;
    }
    if (found) Py_DecRef(found);
    if (list && PyErr_Occurred()) {
        Py_DecRef(list);
        return NULL;
    }
    return list;
}

/* unpack(records: iterator, by_account: bool) -> list of Touch, and of the records in doubt */
static PyObject *unpack(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "unpack takes 2 arguments");
        return NULL;
    }
    bool by_account = PyObject_IsTrue(args[1]) == 1;
    return PyErr_Occurred() ? NULL : unpacked(args[0], read_record, by_account);
}

#endif
