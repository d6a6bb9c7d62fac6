/* JSON by way of jansson, with messages that name the document and the key. */
#include "darkfield/base.h"

#include <string.h>

df_status df_json_parse(const char *text, size_t bytes, const char *what, json_t **out) {
    json_error_t error;
    *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (*out != NULL) return DF_OK;
    if (json_error_code(&error) == json_error_out_of_memory)
        return df_fail(DF_FAILED, "out of memory while parsing %s", what);
    return df_fail(DF_BAD_INPUT, "%s:%d:%d: not valid JSON: %s", what, error.line, error.column,
                   error.text);
}

static const char *type_name(const json_t *value) {
    if (value == NULL) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

// *value is NULL for a missing or null member.
static df_status member(const json_t *object, const char *what, const char *key, json_t **value) {
    if (!json_is_object(object))
        return df_fail(DF_BAD_INPUT, "%s: expected an object with \"%s\", found %s", what, key,
                       type_name(object));
    *value = json_object_get(object, key);
    if (json_is_null(*value)) *value = NULL;
    return DF_OK;
}

static df_status missing(const char *what, const char *key, const char *expected) {
    return df_fail(DF_BAD_INPUT, "%s: \"%s\" is missing: expected %s", what, key, expected);
}

static df_status mistyped(const char *what, const char *key, const char *expected,
                          const json_t *found) {
    return df_fail(DF_BAD_INPUT, "%s: \"%s\": expected %s, found %s", what, key, expected,
                   type_name(found));
}

df_status df_json_int_or(const json_t *object, const char *what, const char *key, int64_t fallback,
                         int64_t *out) {
    json_t *value;
    DF_TRY(member(object, what, key, &value));
    if (value != NULL && !json_is_integer(value)) return mistyped(what, key, "an integer", value);
    *out = value == NULL ? fallback : json_integer_value(value);
    return DF_OK;
}

df_status df_json_int(const json_t *object, const char *what, const char *key, int64_t *out) {
    json_t *value;
    DF_TRY(member(object, what, key, &value));
    if (value == NULL) return missing(what, key, "an integer");
    return df_json_int_or(object, what, key, 0, out);
}

df_status df_json_real_or(const json_t *object, const char *what, const char *key, double fallback,
                          double *out) {
    json_t *value;
    DF_TRY(member(object, what, key, &value));
    if (value != NULL && !json_is_number(value)) return mistyped(what, key, "a number", value);
    *out = value == NULL ? fallback : json_number_value(value);
    return DF_OK;
}

df_status df_json_bool_or(const json_t *object, const char *what, const char *key, bool fallback,
                          bool *out) {
    json_t *value;
    DF_TRY(member(object, what, key, &value));
    if (value != NULL && !json_is_boolean(value))
        return mistyped(what, key, "true or false", value);
    *out = value == NULL ? fallback : json_is_true(value);
    return DF_OK;
}

df_status df_json_text_or(const json_t *object, const char *what, const char *key,
                          const char *fallback, const char **out) {
    json_t *value;
    DF_TRY(member(object, what, key, &value));
    if (value != NULL && !json_is_string(value)) return mistyped(what, key, "a string", value);
    *out = value == NULL ? fallback : json_string_value(value);
    return DF_OK;
}

df_status df_json_text(const json_t *object, const char *what, const char *key, const char **out) {
    json_t *value;
    DF_TRY(member(object, what, key, &value));
    if (value == NULL) return missing(what, key, "a string");
    return df_json_text_or(object, what, key, NULL, out);
}
