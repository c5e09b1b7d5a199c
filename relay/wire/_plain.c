/* The plain frames of the binary form, compiled: what relay/wire/binary.py does without it, for the frames that most
 * traffic consists of. A frame that comes is plain when it has no fields, no critical flags, and a name that is UTF-8:
 *
 *     length u32 | kind u8 | codec u8 | flags u16 | seq u32 | name_bytes u8 | reserved u8 | field_bytes u16 | name | body
 *
 * One that leaves may also have fields that are written already (the sender's), and behind them those of an event or an
 * answer: number u8 | length u16 | value for each of reached, offset and epoch, in this order, as far as they are there.
 *
 * Whatever else a frame or a message is, these functions leave it alone, and Python says what is wrong with it. They
 * keep nothing between calls, take exact types only, and check every length before they read. The twin is pure Python
 * (relay/wire/binary.py); relay/test/test_plain.py compares them. Built when a C compiler is there (setup.py).
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#define VERSION 2 /* relay/wire/plain.py takes this one only */
#define LENGTH_BYTES 4
#define HEADER_BYTES 12
#define STREAM_BYTES (LENGTH_BYTES + HEADER_BYTES)
#define NAME_BYTES_MAX 255
#define PLAIN_FLAGS_MAX 0xFF
#define FIELD_HEAD_BYTES 3
#define FIELD_SECTION_BYTES_MAX 0xFFFF
#define FIELDS_MAX 3
#define OFFSET 16 /* the numbers of relay/wire/kinds.py */
#define EPOCH 17
#define REACHED 42

static uint32_t read_u32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void write_u32(unsigned char *at, uint32_t value)
{
    at[0] = (unsigned char)(value >> 24);
    at[1] = (unsigned char)(value >> 16);
    at[2] = (unsigned char)(value >> 8);
    at[3] = (unsigned char)value;
}

/* One message of the frame at `at`, whose lengths were checked. NULL with an exception, or without one when the name
 * is not UTF-8. */
static PyObject *message_of(PyObject *make, const unsigned char *at, Py_ssize_t name_bytes, Py_ssize_t body_bytes)
{
    /* kind, name, body, codec, flags, seq: the order of Message's fields */
    PyObject *fields[6] = {NULL};
    PyObject *message = NULL;
    const char *name = (const char *)at + STREAM_BYTES;

    fields[1] = PyUnicode_DecodeUTF8(name, name_bytes, NULL);
    if (fields[1] == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
            PyErr_Clear();
        return NULL;
    }
    fields[0] = PyLong_FromLong(at[4]);
    fields[2] = PyBytes_FromStringAndSize(name + name_bytes, body_bytes);
    fields[3] = PyLong_FromLong(at[5]);
    fields[4] = PyLong_FromLong(at[6] << 8 | at[7]);
    fields[5] = PyLong_FromUnsignedLong(read_u32(at + 8));
    if (fields[0] && fields[2] && fields[3] && fields[4] && fields[5])
        message = PyObject_Vectorcall(make, fields, 6, NULL);
    for (int each = 0; each < 6; each++)
        Py_XDECREF(fields[each]);
    return message;
}

PyDoc_STRVAR(take_doc,
             "take(data, at, length_max, make, messages)\n--\n\n"
             "Append make(kind, name, body, codec, flags, seq) to messages for each plain frame of data from at on;\n"
             "return where the first begins that is not plain, not whole, or longer than length_max.");

static PyObject *take(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 5 || !PyBytes_CheckExact(args[0]) || !PyList_CheckExact(args[4])) {
        PyErr_SetString(PyExc_TypeError, "take(bytes, int, int, callable, list)");
        return NULL;
    }
    const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    const Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
    Py_ssize_t at = PyLong_AsSsize_t(args[1]);
    const Py_ssize_t length_max = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred())
        return NULL;
    if (at < 0 || at > size) {
        PyErr_SetString(PyExc_ValueError, "at is outside of data");
        return NULL;
    }
    while (size - at >= STREAM_BYTES) {
        const unsigned char *frame = data + at;
        const uint32_t length = read_u32(frame);
        const Py_ssize_t name_bytes = frame[12];
        /* The rest of data holds the frame, so its length fits into Py_ssize_t; and it holds header and name. */
        if ((uint64_t)length > (uint64_t)(size - at - LENGTH_BYTES) || (Py_ssize_t)length > length_max ||
            (Py_ssize_t)length < HEADER_BYTES + name_bytes)
            break;
        if (frame[6] || frame[14] || frame[15])
            break; /* flags over PLAIN_FLAGS_MAX, or fields */
        PyObject *message = message_of(args[3], frame, name_bytes, (Py_ssize_t)length - HEADER_BYTES - name_bytes);
        if (message == NULL) {
            if (PyErr_Occurred())
                return NULL;
            break;
        }
        const int failed = PyList_Append(args[4], message);
        Py_DECREF(message);
        if (failed)
            return NULL;
        at += LENGTH_BYTES + (Py_ssize_t)length;
    }
    return PyLong_FromSsize_t(at);
}

/* A number of the header; -1 for anything but an int from 0 to `most`. */
static int64_t number_of(PyObject *object, int64_t most)
{
    int overflow;
    if (!PyLong_CheckExact(object))
        return -1;
    const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow || value < 0 || value > most ? -1 : value;
}

/* A field as it is written: `bytes` of a text, or of `number`, its first byte first. */
struct field {
    unsigned char id;
    Py_ssize_t bytes;
    const char *text; /* NULL: a number */
    uint64_t number;
};

/* What `fields` has, as far as it is one of {}, {reached}, {offset, epoch} and {reached, offset, epoch}: how many, or -1
 * when it is anything else, -2 with an exception. What is found lives as long as `fields`. */
static int fields_of(PyObject *fields, struct field *found)
{
    static const unsigned char order[FIELDS_MAX] = {REACHED, OFFSET, EPOCH};
    PyObject *key, *value;
    Py_ssize_t place = 0;
    int count = 0;
    if (fields == Py_None)
        return 0;
    if (!PyDict_CheckExact(fields) || PyDict_GET_SIZE(fields) > FIELDS_MAX)
        return -1;
    const int first = PyDict_GET_SIZE(fields) == 2;
    while (PyDict_Next(fields, &place, &key, &value)) {
        struct field *field = found + count;
        if (first + count >= FIELDS_MAX || number_of(key, 0x7F) != order[first + count])
            return -1;
        field->id = order[first + count];
        field->text = NULL;
        count++;
        if (field->id == EPOCH) {
            if (!PyUnicode_CheckExact(value))
                return -1;
            field->text = PyUnicode_AsUTF8AndSize(value, &field->bytes);
            if (field->text == NULL) {
                if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
                    return -2;
                PyErr_Clear();
                return -1;
            }
        } else {
            const int64_t number = number_of(value, INT64_MAX);
            if (number < 0)
                return -1;
            field->number = (uint64_t)number;
            field->bytes = 1;
            for (uint64_t left = field->number >> 8; left; left >>= 8)
                field->bytes++;
        }
    }
    return count;
}

static unsigned char *write_field(unsigned char *at, const struct field *field)
{
    at[0] = field->id;
    at[1] = (unsigned char)(field->bytes >> 8);
    at[2] = (unsigned char)field->bytes;
    at += FIELD_HEAD_BYTES;
    if (field->text != NULL)
        memcpy(at, field->text, (size_t)field->bytes);
    else
        for (Py_ssize_t each = 0; each < field->bytes; each++)
            at[each] = (unsigned char)(field->number >> 8 * (field->bytes - 1 - each));
    return at + field->bytes;
}

PyDoc_STRVAR(frame_doc,
             "frame(kind, codec, flags, seq, name, body, section, fields)\n--\n\n"
             "The frame of these, with its length before it; None when they do not make one that is written here.\n"
             "section: fields that are written already, or None.");

static PyObject *frame(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 8) {
        PyErr_SetString(PyExc_TypeError, "frame(kind, codec, flags, seq, name, body, section, fields)");
        return NULL;
    }
    const int64_t kind = number_of(args[0], 0xFF), codec = number_of(args[1], 0xFF);
    const int64_t flags = number_of(args[2], 0xFFFF), seq = number_of(args[3], 0xFFFFFFFF);
    if (kind < 0 || codec < 0 || flags < 0 || seq < 0 || !PyUnicode_CheckExact(args[4]) ||
        !PyBytes_CheckExact(args[5]) || (args[6] != Py_None && !PyBytes_CheckExact(args[6])))
        Py_RETURN_NONE;
    struct field fields[FIELDS_MAX];
    const int field_count = fields_of(args[7], fields);
    if (field_count == -2)
        return NULL;
    if (field_count < 0)
        Py_RETURN_NONE;
    const Py_ssize_t stamped_bytes = args[6] == Py_None ? 0 : PyBytes_GET_SIZE(args[6]);
    Py_ssize_t section_bytes = stamped_bytes;
    for (int each = 0; each < field_count; each++) {
        if (section_bytes > FIELD_SECTION_BYTES_MAX || fields[each].bytes > FIELD_SECTION_BYTES_MAX)
            Py_RETURN_NONE;
        section_bytes += FIELD_HEAD_BYTES + fields[each].bytes;
    }
    if (section_bytes > FIELD_SECTION_BYTES_MAX)
        Py_RETURN_NONE;
    Py_ssize_t name_bytes;
    const char *name = PyUnicode_AsUTF8AndSize(args[4], &name_bytes);
    if (name == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
            return NULL;
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    const Py_ssize_t body_bytes = PyBytes_GET_SIZE(args[5]);
    if (name_bytes > NAME_BYTES_MAX ||
        (uint64_t)body_bytes > UINT32_MAX - HEADER_BYTES - NAME_BYTES_MAX - FIELD_SECTION_BYTES_MAX ||
        body_bytes > PY_SSIZE_T_MAX - STREAM_BYTES - NAME_BYTES_MAX - FIELD_SECTION_BYTES_MAX)
        Py_RETURN_NONE;
    PyObject *made = PyBytes_FromStringAndSize(NULL, STREAM_BYTES + name_bytes + section_bytes + body_bytes);
    if (made == NULL)
        return NULL;
    unsigned char *out = (unsigned char *)PyBytes_AS_STRING(made);
    write_u32(out, (uint32_t)(HEADER_BYTES + name_bytes + section_bytes + body_bytes));
    out[4] = (unsigned char)kind;
    out[5] = (unsigned char)codec;
    out[6] = (unsigned char)(flags >> 8);
    out[7] = (unsigned char)flags;
    write_u32(out + 8, (uint32_t)seq);
    out[12] = (unsigned char)name_bytes;
    out[13] = 0;
    out[14] = (unsigned char)(section_bytes >> 8);
    out[15] = (unsigned char)section_bytes;
    out += STREAM_BYTES;
    memcpy(out, name, (size_t)name_bytes);
    out += name_bytes;
    if (stamped_bytes)
        memcpy(out, PyBytes_AS_STRING(args[6]), (size_t)stamped_bytes);
    out += stamped_bytes;
    for (int each = 0; each < field_count; each++)
        out = write_field(out, fields + each);
    memcpy(out, PyBytes_AS_STRING(args[5]), (size_t)body_bytes);
    return made;
}

static PyMethodDef methods[] = {
    {"take", (PyCFunction)(void (*)(void))take, METH_FASTCALL, take_doc},
    {"frame", (PyCFunction)(void (*)(void))frame, METH_FASTCALL, frame_doc},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *module) { return PyModule_AddIntConstant(module, "VERSION", VERSION); }

static PyModuleDef_Slot slots[] = {{Py_mod_exec, prepare}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "relay.wire._plain",
    .m_doc = "Plain frames of the binary form, compiled; see relay.wire.plain.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__plain(void) { return PyModuleDef_Init(&definition); }
