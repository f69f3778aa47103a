/* The part of CPython's stable ABI (3.11 and later) that is used here, declared by hand: who builds needs no Python.h.
 * These functions and layouts are promised to stay as they are; see "Stable ABI" in Python's C API reference. */
#ifndef ABI3_H
#define ABI3_H

#include <stddef.h>
#include <sys/types.h>

typedef ssize_t Py_ssize_t;
typedef struct _object PyObject;

typedef struct {
    const char *name;
    PyObject *(*call)(PyObject *, PyObject *const *, Py_ssize_t);
    int flags;
    const char *doc;
} PyMethodDef;
#define METH_FASTCALL 0x80

typedef struct {
    Py_ssize_t refcount;
    void *type, *init;
    Py_ssize_t index;
    PyObject *copy;
} PyModuleDef_Base;

typedef struct {
    PyModuleDef_Base base;
    const char *name, *doc;
    Py_ssize_t size;
    PyMethodDef *methods;
    void *slots, *traverse, *clear, *free;
} PyModuleDef;
#define PYTHON_ABI_VERSION 3
#define PyBUF_READ 0x100

extern char _Py_NoneStruct[];
#define Py_None ((PyObject *)_Py_NoneStruct)
extern PyObject *PyExc_TypeError, *PyExc_ValueError;

/* What every object begins with. */
typedef struct {
    Py_ssize_t refcount;
    PyObject *type;
} PyObjectHead;
typedef struct {
    int slot;
    void *is;
} PyType_Slot;
typedef struct {
    const char *name;
    int size, item_size;
    unsigned int flags;
    PyType_Slot *slots;
} PyType_Spec;
#define Py_TPFLAGS_DISALLOW_INSTANTIATION (1u << 7)
#define Py_tp_dealloc 52
#define Py_tp_doc 56
#define Py_tp_members 72
#define Py_tp_getset 73
typedef struct {
    const char *name;
    int type;
    Py_ssize_t offset;
    int flags;
    const char *doc;
} PyMemberDef;
#define T_OBJECT_EX 16
#define T_LONGLONG 17
#define READONLY 1
typedef struct {
    const char *name;
    PyObject *(*get)(PyObject *, void *);
    void *set;
    const char *doc;
    void *closure;
} PyGetSetDef;
PyObject *PyType_FromSpec(PyType_Spec *);
PyObject *PyObject_Init(PyObject *, PyObject *);
void *PyObject_Malloc(size_t);
void PyObject_Free(void *);

PyObject *PyModule_Create2(PyModuleDef *, int);
int PyModule_AddIntConstant(PyObject *, const char *, long);
typedef struct {
    const char *name, *doc;
} PyStructSequence_Field;
typedef struct {
    const char *name, *doc;
    PyStructSequence_Field *fields;
    int in_sequence;
} PyStructSequence_Desc;
PyObject *PyStructSequence_NewType(PyStructSequence_Desc *);
PyObject *PyStructSequence_New(PyObject *);
void PyStructSequence_SetItem(PyObject *, Py_ssize_t, PyObject *);

void Py_IncRef(PyObject *);
void PyObject_GC_UnTrack(void *);
void Py_DecRef(PyObject *);
PyObject *PyErr_Occurred(void);
void PyErr_Clear(void);
void PyErr_SetString(PyObject *, const char *);
PyObject *PyErr_NoMemory(void);
PyObject *PyObject_GetAttr(PyObject *, PyObject *);
int PyObject_IsTrue(PyObject *);
int PyObject_IsInstance(PyObject *, PyObject *);
PyObject *PyObject_GetIter(PyObject *);
PyObject *PyIter_Next(PyObject *);
PyObject *PyUnicode_InternFromString(const char *);
const char *PyUnicode_AsUTF8AndSize(PyObject *, Py_ssize_t *);
PyObject *PyUnicode_DecodeUTF8(const char *, Py_ssize_t, const char *);
PyObject *PyLong_FromLongLong(long long);
long long PyLong_AsLongLong(PyObject *);
PyObject *PyBytes_FromStringAndSize(const char *, Py_ssize_t);
int PyBytes_AsStringAndSize(PyObject *, char **, Py_ssize_t *);
PyObject *PyTuple_New(Py_ssize_t);
Py_ssize_t PyTuple_Size(PyObject *);
PyObject *PyTuple_GetItem(PyObject *, Py_ssize_t);
int PyTuple_SetItem(PyObject *, Py_ssize_t, PyObject *);
PyObject *PyList_New(Py_ssize_t);
Py_ssize_t PyList_Size(PyObject *);
PyObject *PyList_GetItem(PyObject *, Py_ssize_t);
int PyList_SetItem(PyObject *, Py_ssize_t, PyObject *);
int PyList_Append(PyObject *, PyObject *);
int PyDict_Next(PyObject *, Py_ssize_t *, PyObject **, PyObject **);
Py_ssize_t PyDict_Size(PyObject *);
PyObject *PyDict_GetItemWithError(PyObject *, PyObject *);
PyObject *PyCapsule_New(void *, const char *, void (*)(PyObject *));
void *PyCapsule_GetPointer(PyObject *, const char *);
PyObject *PyMemoryView_FromMemory(char *, Py_ssize_t, int);
PyObject *PyObject_CallFunctionObjArgs(PyObject *, ...);
PyObject *PyObject_CallMethodObjArgs(PyObject *, PyObject *, ...);
char *PyOS_double_to_string(double, char, int, int, int *);
void PyMem_Free(void *);

#endif
