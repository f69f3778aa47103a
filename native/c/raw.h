/* Raw touches: whose they are, and their JSON for the crediting stage, as models/raw.py does it.
 *
 * Plain is what is plain of a touch (touches.h), with one id that is no e-mail address, and without headers: those are
 * of records on their way between owners. The JSON is that of Python up to the person, who stands last in it, as who
 * that is shows only when the state of the id is known; by then it is read once more, which costs less than to keep it
 * beside the record. */
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

/* A plain raw touch: its texts, its time as it is written, its one id, and what stands before that in a person id. */
typedef struct {
    Text texts[TEXTS], time, id;
    size_t start;
} Raw;

/* Read the raw touch in `value`. False: in doubt. */
static bool read_raw(Text value, int64_t record_ms, Raw *raw) {
    int64_t occurred_ms;
    const Text *texts = raw->texts;
    memset(raw, 0, sizeof *raw);
    if (value.size > RECORD_BYTES_MAX || record_ms < 0 || record_ms > RECORD_MS_MAX) return false;
    if (!read_touch(RAW_NAMES, value, raw->texts, &raw->time, &occurred_ms)) return false;
    if (!id_of(texts, &raw->id, &raw->start)) return false;
    if (!texts[EVENT_ID].size || texts[EVENT_ID].size > ID_BYTES_MAX || texts[ACCOUNT_ID].size > ID_BYTES_MAX) return false;
    return occurred_ms >= EARLIEST_MS && occurred_ms <= record_ms + AHEAD_MAX_MS && !has_many_brackets(value);
}

/* The JSON of the raw touch in `value` for the crediting stage, up to its person. False: it is not plain, or no memory. */
static bool head_of(Text value, int64_t record_ms, Buffer *b) {
    Raw raw;
    if (!read_raw(value, record_ms, &raw)) return false;
    const Text *texts = raw.texts, time = raw.time;
    /* Each part stands in the record too, with its name, but for what `"occurred_at":` may lack. */
    b->size = 0;
    if (!reserve(b, (size_t)value.size + 64)) return false;
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
    b->size = (size_t)(o - b->at);
    return true;
}

/* The person id that a raw touch names. */
static PyObject *person_of(const Raw *raw) {
    char text[ID_BYTES_MAX];
    size_t size = raw->start + (size_t)raw->id.size; /* which `id_of` has bounded */
    memcpy(text, ANONYMOUS, raw->start);
    memcpy(text + raw->start, raw->id.at, (size_t)raw->id.size);
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, NULL);
}

static PyObject *name_headers;

/* A PlainTouch of models/raw.py in one piece. There are as many as wait for their step, longer than any cache holds them:
 * parts of their own would each have to be fetched anew when the touch is written. */
typedef struct {
    PyObjectHead head;
    long long offset, timestamp;
    PyObject *person;
    Py_ssize_t value_size, key_size; /* as a Text has it: -1 is no key */
    char bytes[];                    /* the value and the key */
} RawTouch;

static PyObject *raw_type;

static void free_raw(PyObject *self) {
    PyObject *type = ((RawTouch *)self)->head.type;
    Py_DecRef(((RawTouch *)self)->person);
    PyObject_Free(self);
    Py_DecRef(type);
}

static PyObject *raw_value(PyObject *self, void *closure) {
    (void)closure;
    RawTouch *touch = (RawTouch *)self;
    return PyBytes_FromStringAndSize(touch->bytes, touch->value_size);
}

static PyObject *raw_key(PyObject *self, void *closure) {
    (void)closure;
    RawTouch *touch = (RawTouch *)self;
    if (touch->key_size >= 0) return PyBytes_FromStringAndSize(touch->bytes + touch->value_size, touch->key_size);
    Py_IncRef(Py_None);
    return Py_None;
}

static PyMemberDef RAW_MEMBERS[] = {
    {"offset", T_LONGLONG, offsetof(RawTouch, offset), READONLY, NULL},
    {"timestamp", T_LONGLONG, offsetof(RawTouch, timestamp), READONLY, "record time, epoch ms"},
    {"person", T_OBJECT_EX, offsetof(RawTouch, person), READONLY, "person id"},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef RAW_BYTES[] = {
    {"value", raw_value, NULL, "JSON, as it came", NULL}, {"key", raw_key, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot RAW_SLOTS[] = {
    {Py_tp_doc, "A raw touch that was read."}, {Py_tp_dealloc, free_raw}, {Py_tp_members, RAW_MEMBERS},
    {Py_tp_getset, RAW_BYTES}, {0, NULL},
};
static PyType_Spec RAW = {
    "touchstream_native.fast.RawTouch", sizeof(RawTouch), 0, Py_TPFLAGS_DISALLOW_INSTANTIATION, RAW_SLOTS,
};

/* The attribute as a number; -1 with an error where it is none. */
static long long long_of(PyObject *record, PyObject *name) {
    PyObject *found = PyObject_GetAttr(record, name);
    long long number = found ? PyLong_AsLongLong(found) : -1;
    if (found) Py_DecRef(found);
    return number;
}

/* The parts as an object; takes the reference to `person`. NULL with an error. */
static PyObject *new_raw(long long offset, long long record_ms, PyObject *person, Text value, Text key) {
    size_t key_size = key.size > 0 ? (size_t)key.size : 0;
    RawTouch *touch = person ? PyObject_Malloc(sizeof *touch + (size_t)value.size + key_size) : NULL;
    if (!touch) {
        if (!person) return NULL;
        Py_DecRef(person);
        return PyErr_NoMemory();
    }
    PyObject_Init((PyObject *)touch, raw_type);
    touch->offset = offset;
    touch->timestamp = record_ms;
    touch->person = person;
    touch->value_size = value.size;
    touch->key_size = key.size;
    memcpy(touch->bytes, value.at, (size_t)value.size);
    if (key_size) memcpy(touch->bytes + value.size, key.at, key_size);
    return (PyObject *)touch;
}

/* A RawTouch; NULL with an error where that failed, without one where the record is in doubt. */
static PyObject *plain_touch(PyObject *record, bool by_account) {
    (void)by_account;
    PyObject *value_owner = NULL, *key_owner = NULL, *touch = NULL, *headers = PyObject_GetAttr(record, name_headers);
    Text value, key = {NULL, -1};
    Raw raw;
    bool is_plain = headers && PyObject_IsTrue(headers) == 0;
    long long record_ms = is_plain ? long_of(record, name_timestamp) : -1;
    is_plain = is_plain && !PyErr_Occurred() && bytes_of(record, name_value, &value_owner, &value) &&
               read_raw(value, record_ms, &raw);
    is_plain = is_plain && (bytes_of(record, name_key, &key_owner, &key) || key_owner == Py_None);
    long long offset = is_plain ? long_of(record, name_offset) : -1;
    if (is_plain && !PyErr_Occurred()) touch = new_raw(offset, record_ms, person_of(&raw), value, key);
    else PyErr_Clear(); /* Python will meet it again */
    if (value_owner) Py_DecRef(value_owner);
    if (key_owner) Py_DecRef(key_owner);
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
    static Buffer head; /* nothing between head_of and the use of it can run Python code */
    Text key, tail;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "deliver takes 4 arguments");
        return NULL;
    }
    Batches *all = PyCapsule_GetPointer(args[0], BATCHES);
    if (!all || !text_in(args[1], &key) || !text_in(args[2], &tail)) return NULL;
    Py_ssize_t touches = PyList_Size(args[3]);
    for (Py_ssize_t i = 0; i < touches; i++) {
        RawTouch *touch = (RawTouch *)PyList_GetItem(args[3], i); /* borrowed */
        if (!touch) return NULL;
        bool is_raw = touch->head.type == raw_type;
        long long ms = is_raw ? touch->timestamp : -1;
        if (!is_raw || !head_of((Text){(const uint8_t *)touch->bytes, touch->value_size}, ms, &head)) {
            PyErr_SetString(PyExc_ValueError, "deliver takes plain raw touches");
            return NULL;
        }
        ssize_t size = (ssize_t)head.size + tail.size;
        uint8_t *o = begin_record(all, ms, (size_t)key.size, size, 1);
        if (!o) return PyErr_NoMemory();
        o = put(o, key.at, (size_t)key.size);
        o = put_varint(o, size);
        o = put(o, head.at, head.size);
        o = put(o, tail.at, (size_t)tail.size);
        *o = 0; /* no headers */
    }
    if (PyErr_Occurred()) return NULL;
    Py_IncRef(Py_None);
    return Py_None;
}

#endif
