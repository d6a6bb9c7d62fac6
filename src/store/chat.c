/* Conversations as the text that chat models of a family were trained on. What the family's
 * template puts before everything (<s>, <|begin_of_text|>, <bos>) is left to harvest.bos; default
 * system messages, dates and tool descriptions are left out. */
#include "corpus_parts.h"

#include <stdlib.h>
#include <string.h>

/* How a family writes a conversation. %: the role. */
typedef struct chat_format {
    const char *name;
    const char *before, *after; /* user messages; of others where there are no own ones */
    const char *before_reply, *after_reply;   /* the assistant's */
    const char *turn;                         /* before each user message but the first */
    const char *before_system, *after_system; /* of the system's message inside the first user's */
    const char *assistant;                    /* its role's name */
    bool any_role;                            /* system and others are messages like the user's */
    /* White space at the ends is left out: of a message; of the system's and the first user's
     * together; of a reply. */
    bool trim, trim_turn, trim_reply;
} chat_format;

static const chat_format formats[] = {
    {.name = "chatml",
     .before = "<|im_start|>%\n",
     .after = "<|im_end|>\n",
     .before_reply = "<|im_start|>%\n",
     .after_reply = "<|im_end|>\n",
     .turn = "",
     .assistant = "assistant",
     .any_role = true},
    {.name = "llama3",
     .before = "<|start_header_id|>%<|end_header_id|>\n\n",
     .after = "<|eot_id|>",
     .before_reply = "<|start_header_id|>%<|end_header_id|>\n\n",
     .after_reply = "<|eot_id|>",
     .turn = "",
     .assistant = "assistant",
     .any_role = true,
     .trim = true,
     .trim_reply = true},
    {.name = "llama2",
     .before = "[INST] ",
     .after = " [/INST]",
     .before_reply = " ",
     .after_reply = " </s>",
     .turn = "<s>",
     .before_system = "<<SYS>>\n",
     .after_system = "\n<</SYS>>\n\n",
     .trim_turn = true,
     .trim_reply = true},
    {.name = "mistral",
     .before = "[INST] ",
     .after = " [/INST]",
     .before_reply = "",
     .after_reply = "</s>",
     .turn = "",
     .before_system = "",
     .after_system = "\n\n"},
    {.name = "mistral-tekken",
     .before = "[INST]",
     .after = "[/INST]",
     .before_reply = "",
     .after_reply = "</s>",
     .turn = "",
     .before_system = "",
     .after_system = "\n\n"},
    {.name = "gemma",
     .before = "<start_of_turn>%\n",
     .after = "<end_of_turn>\n",
     .before_reply = "<start_of_turn>%\n",
     .after_reply = "<end_of_turn>\n",
     .turn = "",
     .before_system = "",
     .after_system = "\n\n",
     .assistant = "model",
     .trim = true,
     .trim_reply = true},
};

typedef struct writer {
    const corpus_source *from;
    const chat_format *format;
    char *text;
    size_t n, capacity;
    const char *system; /* not yet written */
    size_t users;
    bool replied; /* the last message was the assistant's, or there was none */
} writer;

static df_status bad(const corpus_source *from, const char *what) {
    return df_fail(DF_BAD_INPUT, "%s:%llu: \"%s\": %s", from->path, (unsigned long long)from->line,
                   from->field, what);
}

static df_status put(writer *w, const char *text, size_t n) {
    size_t need;
    DF_TRY(df_add(w->n, n, &need));
    DF_TRY(df_grow((void **)&w->text, &w->capacity, need + 1, 1));
    memcpy(w->text + w->n, text, n);
    w->n += n;
    w->text[w->n] = '\0';
    return DF_OK;
}

// A text of the format, the role in the place of %.
static df_status put_frame(writer *w, const char *frame, const char *role) {
    const char *place = strchr(frame, '%');
    if (place == NULL) return put(w, frame, strlen(frame));
    DF_TRY(put(w, frame, (size_t)(place - frame)));
    DF_TRY(put(w, role, strlen(role)));
    return put(w, place + 1, strlen(place + 1));
}

static bool is_space(char c) {
    return c != '\0' && strchr(" \t\n\r\f\v", c) != NULL;
}

// Takes white space away at both ends of what was put since `start`.
static void trim_since(writer *w, size_t start) {
    size_t first = start;
    while (w->n > start && is_space(w->text[w->n - 1])) w->n--;
    while (first < w->n && is_space(w->text[first])) first++;
    memmove(w->text + start, w->text + first, w->n - first);
    w->n -= first - start;
    w->text[w->n] = '\0';
}

static df_status put_content(writer *w, const char *text, bool trim) {
    size_t start = w->n;
    DF_TRY(put(w, text, strlen(text)));
    if (trim) trim_since(w, start);
    return DF_OK;
}

// The system's message stands inside the first user's.
static df_status put_system(writer *w) {
    if (w->system == NULL) return DF_OK;
    DF_TRY(put_frame(w, w->format->before_system, ""));
    DF_TRY(put_content(w, w->system, false));
    w->system = NULL;
    return put_frame(w, w->format->after_system, "");
}

/* ---- messages ------------------------------------------------------------------------------- */

static df_status put_reply(writer *w, const char *content) {
    const chat_format *f = w->format;
    if (!f->any_role && w->replied)
        return bad(w->from, "an assistant's message follows no user's message");
    w->replied = true;
    DF_TRY(put_frame(w, f->before_reply, f->assistant != NULL ? f->assistant : ""));
    DF_TRY(put_content(w, content, f->trim_reply));
    return put_frame(w, f->after_reply, "");
}

static df_status put_user(writer *w, const char *role, const char *content) {
    const chat_format *f = w->format;
    if (!f->any_role && !w->replied)
        return bad(w->from, "two user messages follow one another, this format has no such thing");
    w->replied = false;
    if (w->users++ > 0) DF_TRY(put_frame(w, f->turn, ""));
    DF_TRY(put_frame(w, f->before, role));
    size_t start = w->n;
    DF_TRY(put_system(w));
    DF_TRY(put_content(w, content, f->trim));
    if (f->trim_turn) trim_since(w, start);
    return put_frame(w, f->after, "");
}

static df_status put_message(writer *w, const json_t *message, bool first) {
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *text = json_object_get(message, "content");
    const char *content = json_string_value(text);
    if (role == NULL || content == NULL)
        return bad(w->from, "expected messages {\"role\": text, \"content\": text}");
    if (strlen(content) != json_string_length(text))
        return bad(w->from, "a message holds a zero character");
    if (strcmp(role, "assistant") == 0) return put_reply(w, content);
    if (w->format->any_role || strcmp(role, "user") == 0) return put_user(w, role, content);
    if (strcmp(role, "system") != 0)
        return bad(w->from, "expected the roles system, user and assistant");
    if (!first) return bad(w->from, "a system's message stands first in this format");
    w->system = content;
    return DF_OK;
}

static df_status put_all(writer *w, const json_t *messages) {
    for (size_t i = 0; i < json_array_size(messages); i++)
        DF_TRY(put_message(w, json_array_get(messages, i), i == 0));
    if (w->system != NULL) return bad(w->from, "a system's message is followed by no user's");
    return put(w, "", 0);
}

static df_status find_format(const char *name, const chat_format **out) {
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        *out = &formats[i];
        if (strcmp(formats[i].name, name) == 0) return DF_OK;
    }
    return df_fail(DF_USAGE, "text.chat: \"%s\" is not known", name);
}

df_status store_chat_text(const corpus_source *from, const json_t *messages, char **out,
                          size_t *bytes) {
    writer w = {.from = from, .replied = true};
    DF_TRY(find_format(from->chat, &w.format));
    df_status status = put_all(&w, messages);
    if (status != DF_OK) {
        df_free(w.text);
        w = (writer){0};
    }
    *out = w.text;
    *bytes = w.n;
    return status;
}
