/* placeholder */
typedef int mt_nothing;
