/*
 * Units, tables and JSON as text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <json-c/json.h>
#include <locale.h>
#include <pty.h>
#include <unistd.h>

#include "report/report.h"

static void test_units(void **state)
{
    char t[64];

    (void)state;
    assert_string_equal(mt_format_bytes(0, t, sizeof(t)), "0 B");
    assert_string_equal(mt_format_bytes(1023, t, sizeof(t)), "1023 B");
    assert_string_equal(mt_format_bytes(1024, t, sizeof(t)), "1.0 KiB");
    assert_string_equal(mt_format_bytes(1048575, t, sizeof(t)), "1.0 MiB");
    assert_string_equal(mt_format_bytes(-1536, t, sizeof(t)), "-1.5 KiB");
    assert_string_equal(mt_format_bytes(INT64_MAX, t, sizeof(t)), "8.0 EiB");
    assert_string_equal(mt_format_bytes(INT64_MIN, t, sizeof(t)), "-8.0 EiB");
    assert_string_equal(mt_format_count(0, t, sizeof(t)), "0");
    assert_string_equal(mt_format_count(999, t, sizeof(t)), "999");
    assert_string_equal(mt_format_count(-1000, t, sizeof(t)), "-1,000");
    assert_string_equal(mt_format_count(INT64_MAX, t, sizeof(t)), "9,223,372,036,854,775,807");
    assert_string_equal(mt_format_duration(1500, t, sizeof(t)), "1.5 us");
    assert_string_equal(mt_format_duration(2500000, t, sizeof(t)), "2.50 ms");
    assert_string_equal(mt_format_duration(56000000, t, sizeof(t)), "56 ms");
    assert_string_equal(mt_format_duration(1234000000, t, sizeof(t)), "1.23 s");
    assert_string_equal(mt_format_duration(INT64_C(125000000000), t, sizeof(t)), "2 min 05 s");
}

static struct mt_table *sample(void)
{
    struct mt_table *table = mt_table_create();

    mt_table_column(table, "N", MT_CELL_RIGHT);
    mt_table_column(table, "M", MT_CELL_RIGHT_OPTIONAL);
    mt_table_column(table, "NAME", MT_CELL_CUT_END);
    mt_table_column(table, "PATH", MT_CELL_CUT_START);
    mt_table_add(table, "1");
    mt_table_add(table, "12345");
    mt_table_add(table, "a_function_with_quite_a_long_name");
    mt_table_add(table, "/a/path/that/is/rather/long/too.c:17");
    mt_table_add(table, "200");
    mt_table_add(table, "1");
    mt_table_add(table, "wide \xe4\xbd\xa0\xe5\xa5\xbd \x1b[31m\x80");
    mt_table_add(table, "x.c:1");
    return table;
}

static void test_no_terminal(void **state)
{
    struct mt_table *table = sample();
    char *out = NULL;
    size_t size;
    FILE *file = tmpfile();

    (void)state;
    assert_int_equal(mt_table_print(table, file), 0);
    rewind(file);
    out = calloc(1, 4096);
    size = fread(out, 1, 4095, file);
    assert_true(size > 0);
    assert_string_equal(out, "  N      M  NAME                               PATH\n"
                             "  1  12345  a_function_with_quite_a_long_name  /a/path/that/is/rather/long/too.c:17\n"
                             "200      1  wide \xe4\xbd\xa0\xe5\xa5\xbd ?[31m?                   x.c:1\n");
    fclose(file);
    free(out);
    mt_table_destroy(table);
}

/* On a terminal of every width no line is longer than it. */
static void test_terminals(void **state)
{
    (void)state;
    setenv("NO_COLOR", "1", 1);
    for (unsigned short columns = 1; columns < 120; columns++) {
        struct winsize size = {.ws_row = 24, .ws_col = columns};
        struct mt_table *table = sample();
        char out[8192], *save = NULL;
        int master, slave;
        ssize_t n;
        FILE *file;

        assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
        file = fdopen(slave, "w");
        mt_table_print(table, file);
        fflush(file);
        n = read(master, out, sizeof(out) - 1);
        assert_true(n > 0);
        out[n] = '\0';
        for (char *line = strtok_r(out, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save))
            assert_true(mt_text_width(line) <= columns);
        fclose(file);
        close(master);
        mt_table_destroy(table);
    }
}

static void test_json(void **state)
{
    struct json_object *row = json_object_new_object(), *parsed;
    struct mt_json json;
    char out[512] = "";
    FILE *file = tmpfile();

    (void)state;
    json_object_object_add(row, "text", mt_json_text("a\"\n\x80\xe4\xbd\xa0", 7));
    json_object_object_add(row, "number", json_object_new_int64(INT64_MAX));
    mt_json_begin(&json, file);
    mt_json_row(&json, row);
    mt_json_end(&json);
    rewind(file);
    assert_true(fread(out, 1, sizeof(out) - 1, file) > 0);
    fclose(file);
    parsed = json_tokener_parse(out);
    assert_int_equal(json_object_array_length(parsed), 1);
    row = json_object_array_get_idx(parsed, 0);
    assert_string_equal(json_object_get_string(json_object_object_get(row, "text")), "a\"\n\xef\xbf\xbd\xe4\xbd\xa0");
    assert_int_equal(json_object_get_int64(json_object_object_get(row, "number")), INT64_MAX);
    json_object_put(parsed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_units),
        cmocka_unit_test(test_no_terminal),
        cmocka_unit_test(test_terminals),
        cmocka_unit_test(test_json),
    };

    setlocale(LC_CTYPE, "C.UTF-8");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
