/* Record batches: the records of a transaction as Kafka's bytes, cut as aiokafka's builder cuts them.
 *
 * Only what stands between a batch's header and its end is written here; streams/compiled.py compresses it and puts the
 * header in front. Full batches stay here until `take`, so that writing one makes no Python objects. */
#ifndef BATCHES_H
#define BATCHES_H

#include "abi3.h"
#include "bytes.h"

#define HEADER_BYTES 61 /* of a batch, which count for its size */
#define LIMIT_MAX (1ll << 30)

typedef struct {
    Buffer records;
    int64_t count, first_ms, last_ms;
} Batch;

typedef struct {
    size_t limit;    /* bytes of a batch; one record alone may take more */
    Batch *full;
    size_t full_count, full_room;
    Batch open;
} Batches;

#define BATCHES "touchstream.batches"

static void free_batches(PyObject *capsule) {
    Batches *all = PyCapsule_GetPointer(capsule, BATCHES);
    for (size_t i = 0; i < all->full_count; i++) free(all->full[i].records.at);
    free(all->full);
    free(all->open.records.at);
    free(all);
}

/* batches(limit: int) -> capsule */
static PyObject *batches(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    long long limit = count == 1 ? PyLong_AsLongLong(args[0]) : -1;
    if (PyErr_Occurred()) return NULL;
    if (limit < 0 || limit > LIMIT_MAX) {
        PyErr_SetString(PyExc_ValueError, "batches takes a limit in bytes, a gigabyte at most");
        return NULL;
    }
    Batches *all = calloc(1, sizeof *all);
    if (!all) return PyErr_NoMemory();
    all->limit = (size_t)limit;
    PyObject *capsule = PyCapsule_New(all, BATCHES, free_batches);
    if (!capsule) free(all);
    return capsule;
}

/* The open batch is full; the next record begins a new one. False: no memory. */
static bool cut(Batches *all) {
    if (all->full_count == all->full_room) {
        size_t room = 2 * all->full_room + 8;
        Batch *full = realloc(all->full, room * sizeof *full);
        if (!full) return false;
        all->full = full;
        all->full_room = room;
    }
    all->full[all->full_count++] = all->open;
    memset(&all->open, 0, sizeof all->open);
    return true;
}

/* Write a record up to its key, and make room for the rest. NULL: no memory, and nothing has been written.
 * The caller puts the key, the varint of value_size, the value (none where value_size is -1) and the headers. */
static uint8_t *begin_record(Batches *all, int64_t ms, size_t key_size, ssize_t value_size, size_t headers_size) {
    for (;;) {
        Batch *b = &all->open;
        int64_t ms_more = b->count ? ms - b->first_ms : 0;
        size_t value_bytes = value_size < 0 ? 0 : (size_t)value_size;
        size_t inside = 1 + varint_size(ms_more) + varint_size(b->count) + varint_size((int64_t)key_size) + key_size +
                        varint_size(value_size) + value_bytes + headers_size;
        size_t size = inside + varint_size((int64_t)inside);
        if (b->count && HEADER_BYTES + b->records.size + size >= all->limit) {
            if (!cut(all)) return NULL;
            continue;
        }
        if (!reserve(&b->records, size)) return NULL;
        uint8_t *o = put_varint(b->records.at + b->records.size, (int64_t)inside);
        b->records.size += size;
        *o++ = 0; /* attributes */
        o = put_varint(o, ms_more);
        o = put_varint(o, b->count);
        o = put_varint(o, (int64_t)key_size);
        if (!b->count) b->first_ms = b->last_ms = ms;
        if (ms > b->last_ms) b->last_ms = ms;
        b->count++;
        return o;
    }
}

/* append(batches, record_ms: int, key: bytes, value: bytes | None, headers: bytes as Kafka has them) */
static PyObject *append(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    Text key, value = {NULL, -1}, headers;
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "append takes 5 arguments");
        return NULL;
    }
    Batches *all = PyCapsule_GetPointer(args[0], BATCHES);
    long long ms = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred() || !text_in(args[2], &key) || !text_in(args[4], &headers)) return NULL;
    if (args[3] != Py_None && !text_in(args[3], &value)) return NULL;
    uint8_t *o = begin_record(all, ms, (size_t)key.size, value.size, (size_t)headers.size);
    if (!o) return PyErr_NoMemory();
    o = put(o, key.at, (size_t)key.size);
    o = put_varint(o, value.size);
    if (value.size > 0) o = put(o, value.at, (size_t)value.size);
    put(o, headers.at, (size_t)headers.size);
    Py_IncRef(Py_None);
    return Py_None;
}

/* mark(batches) -> (full batches, bytes, records, latest record time): how far was written, for `undo` */
static PyObject *mark(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    Batches *all = count == 1 ? PyCapsule_GetPointer(args[0], BATCHES) : NULL;
    PyObject *place = all ? PyTuple_New(4) : NULL;
    if (!place) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "mark takes 1 argument");
        return NULL;
    }
    PyTuple_SetItem(place, 0, PyLong_FromLongLong((long long)all->full_count));
    PyTuple_SetItem(place, 1, PyLong_FromLongLong((long long)all->open.records.size));
    PyTuple_SetItem(place, 2, PyLong_FromLongLong(all->open.count));
    PyTuple_SetItem(place, 3, PyLong_FromLongLong(all->open.last_ms));
    return place;
}

/* undo(batches, mark): forget what was written since */
static PyObject *undo(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    Batches *all = count == 2 ? PyCapsule_GetPointer(args[0], BATCHES) : NULL;
    long long place[4] = {-1, -1, -1, -1};
    for (int i = 0; all && i < 4; i++) {
        PyObject *number = PyTuple_GetItem(args[1], i);
        if (number) place[i] = PyLong_AsLongLong(number);
    }
    if (PyErr_Occurred()) return NULL;
    Batch *open = !all || place[0] < 0 || (size_t)place[0] > all->full_count ? NULL
                  : (size_t)place[0] == all->full_count                      ? &all->open
                                                                             : &all->full[place[0]];
    if (!open || place[1] < 0 || (size_t)place[1] > open->records.size || place[2] < 0 || place[2] > open->count) {
        PyErr_SetString(PyExc_ValueError, "undo takes batches and a mark of them");
        return NULL;
    }
    if (open != &all->open) {
        free(all->open.records.at);
        while (all->full_count > (size_t)place[0] + 1) free(all->full[--all->full_count].records.at);
        all->full_count--;
        all->open = *open;
    }
    all->open.records.size = (size_t)place[1];
    all->open.count = place[2];
    all->open.last_ms = place[3];
    Py_IncRef(Py_None);
    return Py_None;
}

static PyObject *name_release;

/* What `compress` makes of the records, which it sees where they lie: a copy would cost as much as writing them did. */
static PyObject *compressed(const Batch *b, PyObject *compress) {
    PyObject *view = PyMemoryView_FromMemory((char *)b->records.at, (Py_ssize_t)b->records.size, PyBUF_READ);
    PyObject *made = view ? PyObject_CallFunctionObjArgs(compress, view, NULL) : NULL;
    PyObject *released = made ? PyObject_CallMethodObjArgs(view, name_release, NULL) : NULL;
    if (made && !released) {
        Py_DecRef(made);
        made = NULL;
    }
    if (released) Py_DecRef(released);
    if (view) Py_DecRef(view);
    return made;
}

/* (records, compressed; size before; their number; record time of the first; latest record time) */
static PyObject *taken_batch(const Batch *b, PyObject *compress) {
    PyObject *taken = PyTuple_New(5), *made = taken ? compressed(b, compress) : NULL;
    if (!made) {
        if (taken) Py_DecRef(taken);
        return NULL;
    }
    PyTuple_SetItem(taken, 0, made);
    PyTuple_SetItem(taken, 1, PyLong_FromLongLong((long long)b->records.size));
    PyTuple_SetItem(taken, 2, PyLong_FromLongLong(b->count));
    PyTuple_SetItem(taken, 3, PyLong_FromLongLong(b->first_ms));
    PyTuple_SetItem(taken, 4, PyLong_FromLongLong(b->last_ms));
    if (!PyErr_Occurred()) return taken;
    Py_DecRef(taken);
    return NULL;
}

/* take(batches, compress) -> list of what `taken_batch` gives: everything written, which is then forgotten.
 * `compress` gets a view of the records of a batch, which it must not keep. Nothing else may use `batches` meanwhile. */
static PyObject *take(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "take takes 2 arguments");
        return NULL;
    }
    Batches *all = PyCapsule_GetPointer(args[0], BATCHES);
    if (!all) return NULL;
    if (all->open.count && !cut(all)) return PyErr_NoMemory();
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < all->full_count; i++) {
        PyObject *taken = taken_batch(&all->full[i], args[1]);
        if (!taken || PyList_Append(list, taken)) {
            Py_DecRef(list);
            list = NULL;
        }
        if (taken) Py_DecRef(taken);
    }
    if (!list) return NULL; /* nothing is lost: all of it can be taken again */
    for (size_t i = 0; i < all->full_count; i++) free(all->full[i].records.at);
    all->full_count = 0;
    return list;
}

#endif
