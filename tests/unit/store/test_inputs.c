/* What a file was made from: notes of activations files, and which later contents do not fit them.
 */
#define DF_TEST_MPI
#include "df_test.h"

#include "darkfield/store.h"

static df_comm *world;

static df_acts one(uint64_t recipe, uint64_t hash, char *path) {
    return (df_acts){.recipe = recipe, .hash = hash, .path = path};
}

static void notes_every_file(void **state) {
    (void)state;
    char a[] = "/runs/x/a b.acts.h5", b[] = "b.acts.h5", model[] = "base", text[] = "model base";
    df_acts first = one(0xa1, 0xc1, a), second = one(0xa2, 0xc2, b), made = one(0xa3, 0xa3, text);
    df_acts *parts[] = {&second, &first};
    df_acts joined = {.path = b, .part = parts, .parts = 2};
    made.made.self = &made;
    made.model = model;
    char *lines = df_inputs_note(df_strdup(""), &first);
    lines = df_inputs_note(lines, &joined);
    lines = df_inputs_note(lines, &made);
    assert_string_equal(lines, "00000000000000a1 00000000000000c1 a b.acts.h5\n"
                               "00000000000000a2 00000000000000c2 b.acts.h5\n"
                               "00000000000000a1 00000000000000c1 a b.acts.h5\n"
                               "00000000000000a3 - base\n");
    df_free(lines);
    assert_null(df_inputs_note(NULL, &first));
}

/* Writes a file that says it was made from `inputs`, and opens it. */
static df_reader *made_from(const char *inputs) {
    char *path = df_format("%s/made.h5", df_test_folder("inputs"));
    df_provenance facts = DF_TEST_FACTS;
    df_file *file = NULL;
    df_reader *out = NULL;
    facts.inputs = inputs;
    assert_ok(df_file_create(world, path, "darkfield-test", &file));
    assert_ok(df_file_provenance(file, &facts));
    assert_ok(df_file_ready(file));
    assert_ok(df_file_finish(&file));
    assert_ok(df_reader_open(path, "darkfield-test", &out));
    df_free(path);
    return out;
}

#define A "00000000000000a1"
#define B "00000000000000b2"
#define ONE "0000000000000001"
#define TWO "0000000000000002"

static void the_same_recipe_has_the_same_content(void **state) {
    (void)state;
    df_reader *file = made_from(A " " ONE " base.acts.h5\n" B " - tuned\n");
    assert_ok(df_inputs_check(file, A " " ONE " base.acts.h5\n" B " " ONE " tuned.acts.h5\n"));
    assert_ok(df_inputs_check(file, A " - base\n"));
    assert_ok(df_inputs_check(file, "00000000000000d4 " TWO " other.acts.h5\n"));
    assert_ok(df_inputs_check(file, NULL));
    assert_ok(df_inputs_check(file, "no such line\n" A " " TWO " x\n"));
    assert_fails(
        df_inputs_check(file, B " " ONE " t\n" A " " TWO " my base.acts.h5\n"), DF_BAD_INPUT,
        "made.h5 was made from my base.acts.h5 of content " ONE ", whose content is " TWO " now");
    df_reader_close(&file);
}

static void one_of_several_contents_will_do(void **state) {
    (void)state;
    df_reader *file = made_from(A " " ONE " a\n" A " " TWO " b\n");
    assert_ok(df_inputs_check(file, A " " TWO " b\n" A " " ONE " a\n"));
    assert_fails(df_inputs_check(file, A " 0000000000000003 c\n"), DF_BAD_INPUT, "3 now");
    df_reader_close(&file);
    file = made_from(NULL);
    assert_ok(df_inputs_check(file, A " " ONE " a\n"));
    df_reader_close(&file);
    file = made_from("a note of another kind");
    assert_ok(df_inputs_check(file, A " " ONE " a\n"));
    df_reader_close(&file);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(notes_every_file),
                                          cmocka_unit_test(the_same_recipe_has_the_same_content),
                                          cmocka_unit_test(one_of_several_contents_will_do)};

DF_TEST_MPI_MAIN(world, tests, NULL, NULL)
