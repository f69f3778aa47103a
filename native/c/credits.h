/* Credits of a plain conversion, straight into a record batch: what models/crediting.py and models/credit.py come to
 * where a conversion is new, nothing that was published changes, and its policy has no rules but lookback and lateness.
 * streams/compiled.py says which those are, and asks for no other. */
#ifndef CREDITS_H
#define CREDITS_H

#include "abi3.h"
#include "batches.h"
#include "bytes.h"
#include "journeys.h"
#include "numbers.h"

#define MODELS_MAX 32
#define PART_MORE_BYTES 512    /* a credit's part of one touch beside its texts */
#define SHARE_MAX_BYTES 32     /* a double, as Python's repr has it */
#define DECAY_BITS 53          /* of the smallest weight */

/* An attribution model: its name, and either rows by the number of touches or a half-life. */
typedef struct {
    Text name;
    bool is_additive, skips_direct; /* skips_direct: its one row is the last touch that is not direct */
    double half_life_ms;
} Model;

/* The rows of one attribution model for one number of touches, as `rows_of` in streams/compiled.py packs them:
 * int64 number of rows, uint64 total, uint64 weight of each touch; then of each row uint32 place, uint32 size and uint32
 * size of the two texts that follow: what stands before the micros, and behind them. */
typedef struct {
    int64_t count;
    uint64_t total;
    const uint8_t *weights, *rows, *end;
} Rows;

typedef struct {
    uint32_t place;
    Text before, after;
} Row;

static Buffer parts; /* escaped ids and parts of the touches */
static Buffer head;  /* start of the values of one set, and then of its keys */
static uint64_t weights[TOUCHES_MAX], micros[TOUCHES_MAX];
static Rest rests[TOUCHES_MAX];

static const char BEFORE[] = "\"share\":", BETWEEN[] = ",\"value_micros\":", AFTER[] = ",\"reason\":\"decay\"}";

static uint8_t *put_optional(uint8_t *o, const char *name, Text t) {
    if (t.size < 0) return o;
    o = put(o, name, strlen(name));
    return put_json(o, t);
}

/* Every touch's part of its credits, from the end of the credit_id to its position. False: no memory. */
static bool write_parts(void) {
    parts.size = 0;
    for (size_t i = 0; i < journey.count; i++) {
        JourneyTouch *t = &journey.touches[i];
        size_t text_bytes = 3 * (size_t)t->id.size; /* escaped, as JSON, and escaped as JSON: 2 + 6 + 2 * 6 bytes a byte */
        for (int j = 0; j < FRAME_TEXTS; j++) text_bytes += t->texts[j].size > 0 ? (size_t)t->texts[j].size : 0;
        if (!reserve(&parts, JSON_MAX * text_bytes + 2 * (size_t)t->id.size + PART_MORE_BYTES)) return false;
        uint8_t *o = parts.at + parts.size;
        t->escaped_id = parts.size;
        o = put_escaped_id(o, t->id);
        t->part = (size_t)(o - parts.at);
        t->escaped_id_size = t->part - t->escaped_id;
        o = put_json_inside(o, (Text){parts.at + t->escaped_id, (ssize_t)t->escaped_id_size});
        o = PUT_LITERAL(o, "\",\"touch_id\":");
        o = put_json(o, t->id);
        o = put_optional(o, ",\"touch_type\":", t->texts[KIND]);
        o = put_optional(o, ",\"channel\":", t->texts[CHANNEL_]);
        o = put_optional(o, ",\"source\":", t->texts[SOURCE_]);
        o = put_optional(o, ",\"medium\":", t->texts[MEDIUM_]);
        o = put_optional(o, ",\"campaign\":", t->texts[CAMPAIGN_]);
        o = put_optional(o, ",\"content\":", t->texts[CONTENT_]);
        o = put_optional(o, ",\"term\":", t->texts[TERM_]);
        o = put_optional(o, ",\"touch_person_id\":", t->texts[PERSON_]);
        o = PUT_LITERAL(o, ",\"touched_at\":");
        o = put_int(o, t->occurred_ms);
        o = PUT_LITERAL(o, ",\"position\":");
        o = put_int(o, (int64_t)i + 1);
        *o++ = ',';
        parts.size = (size_t)(o - parts.at);
        t->part_size = parts.size - t->part;
    }
    return true;
}

/* -- weights */

/* Python's `2.0 ** x`. By way of a variable, or compilers make exp2 of it, which may differ in the last bit. */
static double (*volatile power)(double, double) = pow;

/* Whether the weights fit into whole numbers here: the smallest gets DECAY_BITS bits, all together are below TOTAL_MAX. */
static bool decay_fits(double half_life_ms) {
    const JourneyTouch *first = journey.touches, *last = first + journey.count - 1;
    double span = power(2.0, (double)(last->occurred_ms - first->occurred_ms) / half_life_ms);
    return span * (double)journey.count < (double)(TOTAL_MAX >> DECAY_BITS);
}

/* As models/attribution/time_decay.py: ages from the youngest touch, all scaled by one power of two. Their sum. */
static uint64_t decay_weights(double half_life_ms) {
    const JourneyTouch *t = journey.touches;
    size_t count = journey.count;
    uint64_t total = 0;
    int exponent = 0;
    for (size_t i = 0; i < count; i++) {
        double decay = power(2.0, (double)(t[i].occurred_ms - t[count - 1].occurred_ms) / half_life_ms);
        if (i == 0) frexp(decay, &exponent); /* the oldest, and smallest */
        weights[i] = (uint64_t)ldexp(decay, DECAY_BITS - exponent);
        total += weights[i];
    }
    return total;
}

static bool is_direct(Text channel) {
    static const char NAME[] = "(direct)";
    size_t size = sizeof NAME - 1, from = 0;
    if (channel.size == (ssize_t)size - 2) from = 1;
    else if (channel.size != (ssize_t)size) return false;
    for (ssize_t i = 0; i < channel.size; i++) {
        uint8_t c = channel.at[i];
        if (c >= 'A' && c <= 'Z') c |= 0x20;
        if (c != (uint8_t)NAME[from + (size_t)i]) return false;
    }
    return true;
}

static uint32_t last_not_direct(void) {
    for (size_t i = journey.count; i-- > 0;)
        if (!is_direct(journey.touches[i].texts[CHANNEL_])) return (uint32_t)i;
    return (uint32_t)journey.count - 1;
}

/* -- rows */

static bool read_rows(PyObject *packed, Rows *rows) {
    char *start;
    Py_ssize_t size;
    size_t head_bytes = 16 + 8 * journey.count;
    if (PyBytes_AsStringAndSize(packed, &start, &size)) return false;
    if ((size_t)size < head_bytes) {
        PyErr_SetString(PyExc_ValueError, "rows are too short");
        return false;
    }
    memcpy(&rows->count, start, 8);
    memcpy(&rows->total, start + 8, 8);
    rows->weights = (uint8_t *)start + 16;
    rows->rows = (uint8_t *)start + head_bytes;
    rows->end = (uint8_t *)start + size;
    return true;
}

/* The row at `rows->rows`, which moves on; false where there is none that is whole. */
static bool next_row(Rows *rows, Row *row) {
    uint32_t numbers[3];
    size_t left = (size_t)(rows->end - rows->rows);
    if (left < sizeof numbers) return false;
    memcpy(numbers, rows->rows, sizeof numbers);
    if (numbers[0] >= journey.count || left - sizeof numbers < (size_t)numbers[1] + numbers[2]) return false;
    row->place = numbers[0];
    row->before = (Text){rows->rows + sizeof numbers, numbers[1]};
    row->after = (Text){row->before.at + numbers[1], numbers[2]};
    rows->rows = row->after.at + numbers[2];
    return true;
}

/* -- records */

typedef struct {
    Batches *batches;
    int64_t record_ms, value;
    Text headers, facts, standing, conversion_id; /* facts and standing: the value around path_length */
} Target;

/* The start of the values of a set, and behind it that of its keys, in `head`. *key_size gets the size of the latter. */
static bool write_head(const Target *to, const Model *m, int64_t set_size, size_t *key_size) {
    head.size = 0;
    size_t id = (size_t)to->conversion_id.size, name = (size_t)m->name.size;
    if (!reserve(&head, (size_t)to->facts.size + (size_t)to->standing.size + 16 * id + 4 * name + 256)) return false;
    uint8_t *key = head.at, *o = put_escaped_id(key, to->conversion_id);
    size_t escaped = (size_t)(o - key);
    *o++ = '|';
    o = put(o, m->name.at, name);
    *o++ = '|';
    *key_size = (size_t)(o - key);
    o = put(o, to->facts.at, (size_t)to->facts.size);
    o = put_int(o, (int64_t)journey.count);
    o = put(o, to->standing.at, (size_t)to->standing.size);
    o = put(o, m->name.at, name);
    o = m->is_additive ? PUT_LITERAL(o, "\",\"additive\":true,\"set_size\":")
                       : PUT_LITERAL(o, "\",\"additive\":false,\"set_size\":");
    o = put_int(o, set_size);
    o = PUT_LITERAL(o, ",\"credit_id\":\"");
    o = put_json_inside(o, (Text){key, (ssize_t)escaped});
    *o++ = '|';
    o = put(o, m->name.at, name);
    *o++ = '|';
    head.size = (size_t)(o - head.at);
    return true;
}

/* One credit: `shares` are the texts that stand between the touch's part and the micros. False: no memory. */
static bool write_credit(const Target *to, size_t key_size, uint32_t place, const Text shares[3], Text after) {
    const JourneyTouch *t = &journey.touches[place];
    uint8_t amount[INT_MAX_BYTES];
    size_t amount_size = (size_t)(put_int(amount, (int64_t)micros[place]) - amount);
    size_t start_size = head.size - key_size, value_size = start_size + t->part_size + amount_size + (size_t)after.size;
    for (int i = 0; i < 3; i++) value_size += (size_t)shares[i].size;
    uint8_t *o = begin_record(to->batches, to->record_ms, key_size + t->escaped_id_size, (ssize_t)value_size,
                              (size_t)to->headers.size);
    if (!o) return false;
    o = put(o, head.at, key_size);
    o = put(o, parts.at + t->escaped_id, t->escaped_id_size);
    o = put_varint(o, (int64_t)value_size);
    o = put(o, head.at + key_size, start_size);
    o = put(o, parts.at + t->part, t->part_size);
    for (int i = 0; i < 3; i++) o = put(o, shares[i].at, (size_t)shares[i].size);
    o = put(o, amount, amount_size);
    o = put(o, after.at, (size_t)after.size);
    put(o, to->headers.at, (size_t)to->headers.size);
    return true;
}

static Text text_of(const char *literal) { return (Text){(const uint8_t *)literal, (ssize_t)strlen(literal)}; }

/* The set of a time decay; `*mismatched` counts one whose parts do not add up. False: no memory. */
static bool write_decay(const Target *to, const Model *m, int64_t *records, int64_t *mismatched) {
    size_t key_size;
    uint64_t total = decay_weights(m->half_life_ms);
    if (!write_head(to, m, (int64_t)journey.count, &key_size)) return false;
    *mismatched += !split((uint64_t)to->value, weights, total, journey.count, micros, rests);
    char share[SHARE_MAX_BYTES];
    Text shares[3] = {text_of(BEFORE), {(uint8_t *)share, 0}, text_of(BETWEEN)};
    for (size_t i = 0; i < journey.count; i++) {
        if (i == 0 || weights[i] != weights[i - 1]) {
            char *text = PyOS_double_to_string(share_of(weights[i], total), 'r', 0, 2, NULL); /* 2: `.0` where whole */
            if (!text) return false;
            shares[1].size = (ssize_t)strlen(text);
            bool fits = shares[1].size <= SHARE_MAX_BYTES;
            if (fits) memcpy(share, text, (size_t)shares[1].size);
            PyMem_Free(text);
            if (!fits) return false;
        }
        if (!write_credit(to, key_size, (uint32_t)i, shares, text_of(AFTER))) return false;
    }
    *records += (int64_t)journey.count;
    return true;
}

/* The set of rows that depend on the number of touches only. False: an error is set, or no memory. */
static bool write_rows(const Target *to, const Model *m, PyObject *packed, int64_t *records, int64_t *mismatched) {
    Rows rows;
    Row row;
    size_t key_size;
    if (!read_rows(packed, &rows) || !write_head(to, m, rows.count, &key_size)) return false;
    memcpy(weights, rows.weights, 8 * journey.count);
    if (!m->is_additive) for (size_t i = 0; i < journey.count; i++) micros[i] = (uint64_t)to->value;
    else *mismatched += !split((uint64_t)to->value, weights, rows.total, journey.count, micros, rests);
    for (int64_t i = 0; i < rows.count; i++) {
        if (!next_row(&rows, &row)) {
            PyErr_SetString(PyExc_ValueError, "rows are not whole");
            return false;
        }
        if (m->skips_direct) {
            uint32_t place = last_not_direct();
            micros[place] = micros[row.place]; /* the one row has it all */
            row.place = place;
        }
        Text shares[3] = {row.before, {NULL, 0}, {NULL, 0}};
        if (!write_credit(to, key_size, row.place, shares, row.after)) return false;
    }
    *records += rows.count;
    return true;
}

/* -- the call */

/* (name: bytes, additive: bool, skips direct: bool, half-life in ms or 0) of each attribution model; how many, or -1 */
static int read_models(PyObject *given, Model models[MODELS_MAX]) {
    Py_ssize_t count = PyTuple_Size(given);
    for (Py_ssize_t i = 0; i < count && i < MODELS_MAX; i++) {
        PyObject *one = PyTuple_GetItem(given, i), *fields[4];
        for (int j = 0; j < 4; j++)
            if (!(fields[j] = PyTuple_GetItem(one, j))) return -1;
        if (!text_in(fields[0], &models[i].name)) return -1;
        models[i].is_additive = PyObject_IsTrue(fields[1]) == 1;
        models[i].skips_direct = PyObject_IsTrue(fields[2]) == 1;
        models[i].half_life_ms = (double)PyLong_AsLongLong(fields[3]);
    }
    if (count > MODELS_MAX) PyErr_SetString(PyExc_ValueError, "too many attribution models");
    return PyErr_Occurred() ? -1 : (int)count;
}

static PyObject *left_to_python(void) {
    if (PyErr_Occurred()) return NULL;
    Py_IncRef(Py_None);
    return Py_None;
}

static PyObject *pair(int64_t records, int64_t mismatched) {
    PyObject *both = PyTuple_New(2);
    if (!both) return NULL;
    PyTuple_SetItem(both, 0, PyLong_FromLongLong(records));
    PyTuple_SetItem(both, 1, PyLong_FromLongLong(mismatched));
    if (!PyErr_Occurred()) return both;
    Py_DecRef(both);
    return NULL;
}

/* credit(batches, record_ms, value, window: 5 ints as in Window, touches_max,
 *        headers, facts, standing, conversion_id: bytes each,
 *        blobs: list, arrivals: list, models: tuple, rows: dict)
 * -> (records, sets whose parts do not add up); None: left to Python; a number: `rows` has none yet for so many touches.
 * In the last two cases nothing was written. `rows` is {touches: tuple of packed rows, None where a half-life counts},
 * one for each of `models`.
 *
 * From the reading of the frames on nothing here runs Python code, so no other call can come between: is_utf8 makes and
 * drops a text, and PyOS_double_to_string no object at all. */
static PyObject *credit(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    Target to;
    Window w;
    Model models[MODELS_MAX];
    if (count != 13) {
        PyErr_SetString(PyExc_TypeError, "credit takes 13 arguments");
        return NULL;
    }
    if (!(to.batches = PyCapsule_GetPointer(args[0], BATCHES))) return NULL;
    to.record_ms = PyLong_AsLongLong(args[1]);
    to.value = PyLong_AsLongLong(args[2]);
    if (PyErr_Occurred()) { /* more than 64 bits: Python's */
        PyErr_Clear();
        return left_to_python();
    }
    long long *times[5] = {&w.latest_ms, &w.first_ms, &w.last_ms, &w.since_ms, &w.occurred_ms};
    for (int i = 0; i < 5; i++) {
        PyObject *ms = PyTuple_GetItem(args[3], i);
        *times[i] = ms ? PyLong_AsLongLong(ms) : 0;
    }
    long long most = PyLong_AsLongLong(args[4]);
    if (PyErr_Occurred() || !text_in(args[5], &to.headers) || !text_in(args[6], &to.facts)) return NULL;
    if (!text_in(args[7], &to.standing) || !text_in(args[8], &to.conversion_id)) return NULL;
    int models_count = read_models(args[11], models);
    if (models_count < 0) return NULL;
    if (to.value < 0 || to.value >= VALUE_MAX || most < 0 || !read_journey(args[9], args[10], &w, (size_t)most))
        return left_to_python();
    PyObject *touches_count = PyLong_FromLongLong((long long)journey.count);
    PyObject *rows = touches_count ? PyDict_GetItemWithError(args[12], touches_count) : NULL; /* borrowed */
    if (!rows && !PyErr_Occurred()) return touches_count;
    if (touches_count) Py_DecRef(touches_count);
    if (!rows) return NULL;
    for (int i = 0; i < models_count; i++) {
        PyObject *packed = PyTuple_GetItem(rows, i);
        if (!packed) return NULL;
        if (packed == Py_None && !(models[i].half_life_ms > 0 && decay_fits(models[i].half_life_ms)))
            return left_to_python();
    }
    if (!write_parts()) return PyErr_NoMemory();
    int64_t records = 0, mismatched = 0;
    for (int i = 0; i < models_count; i++) {
        PyObject *packed = PyTuple_GetItem(rows, i);
        bool written = packed == Py_None ? write_decay(&to, &models[i], &records, &mismatched)
                                         : write_rows(&to, &models[i], packed, &records, &mismatched);
        if (!written) return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    return pair(records, mismatched);
}

#endif
