/* murmur2, by which Kafka's default partitioner finds the partition of a key (streams/murmur.py). It is Austin Appleby's
 * MurmurHash2, which is in the public domain. */
#ifndef HASH_H
#define HASH_H

#include "abi3.h"
#include "bytes.h"

static uint32_t murmur2(const uint8_t *p, size_t size) {
    const uint32_t factor = 0x5bd1e995;
    uint32_t h = 0x9747b28c ^ (uint32_t)size;
    for (; size >= 4; size -= 4, p += 4) {
        uint32_t k = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        k *= factor;
        h = h * factor ^ (k ^ k >> 24) * factor;
    }
    if (size) {
        uint32_t rest = 0;
        for (size_t i = size; i-- > 0;) rest = rest << 8 | p[i];
        h = (h ^ rest) * factor;
    }
    h = (h ^ h >> 13) * factor;
    return h ^ h >> 15;
}

/* owner_of(text: str | bytes, partitions: int) -> int */
static PyObject *owner_of(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "owner_of takes 2 arguments");
        return NULL;
    }
    Py_ssize_t size;
    char *key;
    const char *text = PyBytes_AsStringAndSize(args[0], &key, &size) ? NULL : key;
    if (!text) {
        PyErr_Clear(); /* no bytes */
        text = PyUnicode_AsUTF8AndSize(args[0], &size);
    }
    long long partitions = text ? PyLong_AsLongLong(args[1]) : -1;
    if (PyErr_Occurred()) return NULL;
    if (partitions < 1 || partitions > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "owner_of takes a number of partitions");
        return NULL;
    }
    return PyLong_FromLongLong((murmur2((const uint8_t *)text, (size_t)size) & 0x7fffffff) % partitions);
}

#endif
