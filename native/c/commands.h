/* A command of Redis as the server reads it, put together from words and from mappings whose keys or values are words.
 *
 * What a step appends are 10,000 keys and as many values: taking them from the mappings at once spares a list of them, a
 * text for each whole key, and three passes over all of it. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "abi3.h"
#include "bytes.h"

#define COMMAND_KEPT_BYTES (32 << 20)
#define WORD_MORE_BYTES (INT_MAX_BYTES + 5) /* "$", a size and two line ends */

/* A word of two pieces, each of which may be empty. */
static bool put_word(Buffer *command, Text start, Text rest) {
    if (!reserve(command, (size_t)(start.size + rest.size) + WORD_MORE_BYTES)) return false;
    uint8_t *o = command->at + command->size;
    *o++ = '$';
    o = PUT_LITERAL(put_int(o, start.size + rest.size), "\r\n");
    o = put(put(o, start.at, (size_t)start.size), rest.at, (size_t)rest.size);
    command->size = (size_t)(PUT_LITERAL(o, "\r\n") - command->at);
    return true;
}

/* The keys of a mapping behind a prefix, or its values where that is None. Adds how many to `*words`. */
static bool put_mapping(Buffer *command, PyObject *prefix, PyObject *mapping, int64_t *words) {
    Text start = {NULL, 0}, rest;
    PyObject *key, *value;
    Py_ssize_t place = 0;
    if (prefix != Py_None && !text_in(prefix, &start)) return false;
    Py_ssize_t size = PyDict_Size(mapping);
    if (size < 0) return false;
    while (PyDict_Next(mapping, &place, &key, &value)) {
        if (!text_in(prefix == Py_None ? value : key, &rest)) return false;
        if (!put_word(command, start, rest)) {
            PyErr_NoMemory();
            return false;
        }
    }
    *words += size;
    return true;
}

/* pack(parts: list of bytes | (prefix: bytes, dict) | (None, dict)) -> bytes; see streams/native.py */
static PyObject *pack(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    static Buffer command; /* kept from call to call; no Python code runs before its bytes are made */
    Text word, none = {NULL, 0};
    int64_t words = 0;
    uint8_t head[INT_MAX_BYTES + 3];
    Py_ssize_t parts = count == 1 ? PyList_Size(args[0]) : -1;
    if (parts < 0) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "pack takes 1 argument");
        return NULL;
    }
    command.size = 0;
    if (!reserve(&command, sizeof head)) return PyErr_NoMemory();
    command.size = sizeof head; /* how many words there are is known at the end */
    for (Py_ssize_t i = 0; i < parts; i++) {
        PyObject *part = PyList_GetItem(args[0], i);
        if (text_in(part, &word)) {
            if (!put_word(&command, none, word)) return PyErr_NoMemory();
            words++;
            continue;
        }
        PyErr_Clear();
        PyObject *prefix = PyTuple_GetItem(part, 0), *mapping = prefix ? PyTuple_GetItem(part, 1) : NULL;
        if (!mapping || !put_mapping(&command, prefix, mapping, &words)) return NULL;
    }
    uint8_t *end = head;
    *end++ = '*';
    end = PUT_LITERAL(put_int(end, words), "\r\n");
    size_t size = (size_t)(end - head), start = sizeof head - size;
    memcpy(command.at + start, head, size);
    PyObject *packed = PyBytes_FromStringAndSize((char *)command.at + start, (Py_ssize_t)(command.size - start));
    if (command.room > COMMAND_KEPT_BYTES) {
        free(command.at);
        command = (Buffer){NULL, 0, 0};
    }
    return packed;
}

#endif
