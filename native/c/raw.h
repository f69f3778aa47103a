/* Raw touches: whose they are, and their JSON for the crediting stage, as models/raw.py does it.
 *
 * Plain is what is plain of a touch (touches.h), with one id that is no e-mail address, and without headers: those are
 * of records on their way between owners. The JSON is that of Python up to the person, who stands last in it, as who
 * that is shows only when the state of the id is known. */
#ifndef RAW_H
#define RAW_H

#include "batches.h"
#include "touches.h"

#define SHALLOW_BYTES 512 /* as in models/wire.py: longer ones have their brackets counted */
#define NESTING_MAX 256

static const Name RAW_NAMES[] = {
    NAMED("event_id", EVENT_ID), NAMED("anonymous_id", ANONYMOUS_ID), NAMED("user_id", USER_ID),
    NAMED("occurred_at", OCCURRED_AT), NAMED("type", TYPE), NAMED("channel", CHANNEL), NAMED("source", SOURCE),
    NAMED("medium", MEDIUM), NAMED("campaign", CAMPAIGN), NAMED("content", CONTENT), NAMED("term", TERM),
    NAMED("url", URL), NAMED("referrer", REFERRER), NAMED("account_id", ACCOUNT_ID), NAMED("person_id", PERSON_ID),
    NAMED("email", DOUBTFUL), NAMED("cost", DOUBTFUL), NAMED("currency", DOUBTFUL), NAMED("properties", DOUBTFUL),
    {NULL, 0, UNUSED},
};

/* Texts as they are written again; the time comes behind the first, the person at the end. */
static const Name WRITTEN[] = {
    NAMED(",\"type\":", TYPE), NAMED(",\"channel\":", CHANNEL), NAMED(",\"source\":", SOURCE),
    NAMED(",\"medium\":", MEDIUM), NAMED(",\"campaign\":", CAMPAIGN), NAMED(",\"content\":", CONTENT),
    NAMED(",\"term\":", TERM), NAMED(",\"url\":", URL), NAMED(",\"referrer\":", REFERRER),
    NAMED(",\"account_id\":", ACCOUNT_ID), {NULL, 0, UNUSED},
};

static const char ANONYMOUS[] = "anonymous:"; /* models/identity.py */

/* In a text that is longer than that, Python leaves what has many brackets to the contract, which writes it otherwise. */
static bool has_many_brackets(Text t) {
    size_t found = 0;
    if (t.size <= SHALLOW_BYTES) return false;
    for (ssize_t i = 0; i < t.size; i++) found += t.at[i] == '[' || t.at[i] == '{';
    return found > NESTING_MAX;
}

/* The one id that a touch names, and what stands before it in a person id. False: in doubt. */
static bool id_of(const Text texts[TEXTS], Text *id, size_t *start) {
    *start = 0;
    int found = 0;
    for (enum Field field = 0; field < TEXTS; field++) {
        if ((field != PERSON_ID && field != USER_ID && field != ANONYMOUS_ID) || !texts[field].size) continue;
        *id = texts[field];
        if (field == ANONYMOUS_ID) *start = sizeof ANONYMOUS - 1;
        found++;
    }
    return found == 1 && *start + (size_t)id->size <= ID_BYTES_MAX;
}

/* The JSON of the raw touch in `value` for the crediting stage, up to its person, and the person id behind it.
 * False: in doubt. */
static bool head_of(Text value, int64_t record_ms, Buffer *b, size_t *head_size) {
    Text texts[TEXTS] = {{NULL, 0}}, time, id = {NULL, 0};
    size_t start;
    int64_t occurred_ms;
    if (value.size > RECORD_BYTES_MAX || record_ms < 0 || record_ms > RECORD_MS_MAX) return false;
    if (!read_touch(RAW_NAMES, value, texts, &time, &occurred_ms) || !id_of(texts, &id, &start)) return false;
    if (!texts[EVENT_ID].size || texts[EVENT_ID].size > ID_BYTES_MAX || texts[ACCOUNT_ID].size > ID_BYTES_MAX) return false;
    if (occurred_ms < EARLIEST_MS || occurred_ms > record_ms + AHEAD_MAX_MS || has_many_brackets(value)) return false;
    /* Each part stands in the record too, with its name. Beside the id, `start` and what `"occurred_at":` may lack. */
    b->size = 0;
    if (!reserve(b, (size_t)value.size + ID_BYTES_MAX + 64)) return false;
    uint8_t *o = PUT_LITERAL(b->at, "{\"event_id\":\"");
    o = put(o, texts[EVENT_ID].at, (size_t)texts[EVENT_ID].size);
    o = PUT_LITERAL(o, "\",\"occurred_at\":");
    o = put(o, time.at, (size_t)time.size);
    for (const Name *name = WRITTEN; name->text; name++) {
        Text t = texts[name->field];
        if (!t.at) continue; /* an empty one is written, as it was given */
        o = put(o, name->text, (size_t)name->size);
        *o++ = '"';
        o = put(o, t.at, (size_t)t.size);
        *o++ = '"';
    }
    *o++ = ',';
    *head_size = (size_t)(o - b->at);
    o = put(o, ANONYMOUS, start);
    o = put(o, id.at, (size_t)id.size);
    b->size = (size_t)(o - b->at);
    return true;
}

static PyObject *name_headers;

/* A PlainTouch of models/raw.py. */
static PyStructSequence_Field RAW_FIELDS[] = {
    {"offset", NULL}, {"timestamp", "record time, epoch ms"}, {"person", "person id"},
    {"head", "JSON for the crediting stage, up to the person"}, {"record", NULL}, {NULL, NULL},
};
static PyStructSequence_Desc RAW = {"touchstream_native.fast.RawTouch", "A raw touch that was read.", RAW_FIELDS, 5};
static PyObject *raw_type;

/* (offset, record time, person id, JSON up to the person, record) as models/raw.py has it; NULL with an error where that
 * failed, without one where the record is in doubt. */
static PyObject *plain_touch(PyObject *record, bool by_account) {
    (void)by_account;
    static Buffer b; /* nothing between head_of and the making of the objects can run Python code */
    PyObject *owner = NULL, *headers = PyObject_GetAttr(record, name_headers), *stamp = NULL, *touch = NULL;
    Text value;
    size_t head_size;
    bool is_plain = headers && PyObject_IsTrue(headers) == 0;
    if (is_plain) stamp = PyObject_GetAttr(record, name_timestamp);
    long long record_ms = stamp ? PyLong_AsLongLong(stamp) : -1;
    if (is_plain && stamp && bytes_of(record, name_value, &owner, &value) && head_of(value, record_ms, &b, &head_size)) {
        const char *at = (const char *)b.at;
        PyObject *person = PyUnicode_DecodeUTF8(at + head_size, (Py_ssize_t)(b.size - head_size), NULL);
        PyObject *head = PyBytes_FromStringAndSize(at, (Py_ssize_t)head_size);
        Py_IncRef(record);
        PyObject *parts[5] = {PyObject_GetAttr(record, name_offset), stamp, person, head, record};
        stamp = NULL;
        touch = new_touch(raw_type, parts);
    } else {
        PyErr_Clear(); /* Python will meet it again */
    }
    if (stamp) Py_DecRef(stamp);
    if (owner) Py_DecRef(owner);
    if (headers) Py_DecRef(headers);
    return touch;
}

/* raw_touches(records: list, start: int, out: list) -> int; see `taken` */
static PyObject *raw_touches(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "raw_touches takes 3 arguments");
        return NULL;
    }
    long long start = PyLong_AsLongLong(args[1]);
    return PyErr_Occurred() ? NULL : taken(args[0], start, args[2], raw_type, plain_touch, false);
}

/* unpack_raw(records: iterator) -> list of RawTouch, and of the records in doubt */
static PyObject *unpack_raw(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 1) {
        PyErr_SetString(PyExc_TypeError, "unpack_raw takes 1 argument");
        return NULL;
    }
    return unpacked(args[0], plain_touch, false);
}

/* deliver(batches, key: bytes, tail: bytes, touches: list of what `raw_touches` gave)
 * Writes their records under this key, each with the rest of its JSON. */
static PyObject *deliver(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    char *key, *tail, *head;
    Py_ssize_t key_size, tail_size, head_size;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "deliver takes 4 arguments");
        return NULL;
    }
    Batches *all = PyCapsule_GetPointer(args[0], BATCHES);
    if (!all || PyBytes_AsStringAndSize(args[1], &key, &key_size)) return NULL;
    if (PyBytes_AsStringAndSize(args[2], &tail, &tail_size)) return NULL;
    Py_ssize_t size = PyList_Size(args[3]);
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *touch = PyList_GetItem(args[3], i); /* borrowed, as all below */
        PyObject *stamp = touch ? PyTuple_GetItem(touch, 1) : NULL, *text = stamp ? PyTuple_GetItem(touch, 3) : NULL;
        long long ms = text ? PyLong_AsLongLong(stamp) : -1;
        if (PyErr_Occurred() || PyBytes_AsStringAndSize(text, &head, &head_size)) return NULL;
        uint8_t *o = begin_record(all, ms, (size_t)key_size, head_size + tail_size, 1);
        if (!o) return PyErr_NoMemory();
        o = put(o, key, (size_t)key_size);
        o = put_varint(o, head_size + tail_size);
        o = put(o, head, (size_t)head_size);
        o = put(o, tail, (size_t)tail_size);
        *o = 0; /* no headers */
    }
    if (PyErr_Occurred()) return NULL;
    Py_IncRef(Py_None);
    return Py_None;
}

#endif
