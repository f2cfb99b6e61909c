/*
 * Numbers for people.
 */
#include "report/report.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

char *mt_format_bytes(int64_t bytes, char *buffer, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    uint64_t magnitude = bytes < 0 ? 0 - (uint64_t)bytes : (uint64_t)bytes;
    const char *sign = bytes < 0 ? "-" : "";
    double value = (double)magnitude;
    unsigned unit = 0;

    /* 1023.95 would print as 1024.0 */
    while (value >= (unit == 0 ? 1024 : 1023.95)) {
        value /= 1024;
        unit++;
    }
    if (unit == 0)
        snprintf(buffer, size, "%s%" PRIu64 " B", sign, magnitude);
    else
        snprintf(buffer, size, "%s%.1f %s", sign, value, units[unit]);
    return buffer;
}

char *mt_format_count(int64_t count, char *buffer, size_t size)
{
    char digits[24], text[32];
    size_t n, to = 0;

    snprintf(digits, sizeof(digits), "%" PRIu64, count < 0 ? 0 - (uint64_t)count : (uint64_t)count);
    n = strlen(digits);
    if (count < 0)
        text[to++] = '-';
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            text[to++] = ',';
        text[to++] = digits[i];
    }
    text[to] = '\0';
    snprintf(buffer, size, "%s", text);
    return buffer;
}

char *mt_format_duration(int64_t ns, char *buffer, size_t size)
{
    double s = (double)ns / 1e9;
    int64_t whole = ns / INT64_C(1000000000);

    if (ns < 0)
        snprintf(buffer, size, "-");
    else if (s < 0.0000995)
        snprintf(buffer, size, "%.1f us", s * 1e6);
    else if (s < 0.9995)
        snprintf(buffer, size, s < 0.00995 ? "%.2f ms" : "%.0f ms", s * 1e3);
    else if (s < 99.95)
        snprintf(buffer, size, s < 9.995 ? "%.2f s" : "%.1f s", s);
    else if (whole < 3600)
        snprintf(buffer, size, "%" PRId64 " min %02" PRId64 " s", whole / 60, whole % 60);
    else
        snprintf(buffer, size, "%" PRId64 " h %02" PRId64 " min", whole / 3600, whole / 60 % 60);
    return buffer;
}

char *mt_format_time(int64_t ns_since_1970, char *buffer, size_t size)
{
    time_t seconds = (time_t)(ns_since_1970 / INT64_C(1000000000));
    struct tm when;

    if (!localtime_r(&seconds, &when) || strftime(buffer, size, "%Y-%m-%d %H:%M:%S", &when) == 0)
        snprintf(buffer, size, "%s", "?");
    return buffer;
}
