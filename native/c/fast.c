/* touchstream_native.fast: the parts of a worker's way that cost most, at a fraction of what they cost in Python.
 *
 *   touches.h    touches from JSON to frames
 *   raw.h        raw touches from JSON to whose they are, and to the records of touches
 *   credits.h    credits of plain conversions, by way of journeys.h and numbers.h
 *   batches.h    the record batches that they are written into
 *   commands.h   commands of Redis
 *   hash.h       where a key lies
 *
 * Rules that hold throughout:
 * - Python is the reference. Here is only what is plain; whatever is in doubt is handed back before anything is written.
 * - Bytes from outside (records, stored frames) are read with their end in hand, and nothing is believed of them.
 * - Memory is bounded: by a record's 64 KiB, a journey's megabyte and 500 touches, a batch's limit. No memory is an error
 *   of the call, never a crash.
 * - Scratch memory is static. That is safe because the interpreter's lock is held all the time, and because between the
 *   first use of it in a call and the last nothing runs Python code, which could let another thread in: `unpack` does
 *   between two records, and `take`, which has none. */
#include "abi3.h"

#include "batches.h"
#include "commands.h"
#include "credits.h"
#include "hash.h"
#include "raw.h"
#include "touches.h"

#define INTERFACE 4 /* what streams/compiled.py expects: raise both where a function's arguments or answers change */

static PyMethodDef METHODS[] = {
    {"touches", touches, METH_FASTCALL, NULL}, {"unpack", unpack, METH_FASTCALL, NULL},
    {"batches", batches, METH_FASTCALL, NULL},
    {"append", append, METH_FASTCALL, NULL},   {"take", take, METH_FASTCALL, NULL},
    {"mark", mark, METH_FASTCALL, NULL},       {"undo", undo, METH_FASTCALL, NULL},
    {"credit", credit, METH_FASTCALL, NULL},   {"raw_touches", raw_touches, METH_FASTCALL, NULL},
    {"deliver", deliver, METH_FASTCALL, NULL}, {"owner_of", owner_of, METH_FASTCALL, NULL},
    {"pack", pack, METH_FASTCALL, NULL},       {"unpack_raw", unpack_raw, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef MODULE = {{1, NULL, NULL, 0, NULL}, "fast", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

__attribute__((visibility("default"))) PyObject *PyInit_fast(void) {
    name_value = PyUnicode_InternFromString("value");
    name_key = PyUnicode_InternFromString("key");
    name_timestamp = PyUnicode_InternFromString("timestamp");
    name_offset = PyUnicode_InternFromString("offset");
    name_headers = PyUnicode_InternFromString("headers");
    name_release = PyUnicode_InternFromString("release");
    if (!name_value || !name_key || !name_timestamp || !name_offset || !name_headers || !name_release) return NULL;
    if (!touch_type && !(touch_type = PyStructSequence_NewType(&TOUCH))) return NULL;
    if (!raw_type && !(raw_type = PyType_FromSpec(&RAW))) return NULL;
    PyObject *module = PyModule_Create2(&MODULE, PYTHON_ABI_VERSION);
    if (module && PyModule_AddIntConstant(module, "INTERFACE", INTERFACE)) {
        Py_DecRef(module);
        return NULL;
    }
    return module;
}
