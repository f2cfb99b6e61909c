/*
 * One node on request.
 */
#include "stack/internal.h"

uint32_t mt_stack_child(struct mt_stack *stack, uint32_t parent, uint32_t frame)
{
    uint32_t node = mt_nodes_find(stack, parent, frame);

    if (MT_UNLIKELY(!node)) {
        mt_nodes_add(stack, parent, &frame, sizeof frame, 1);
        node = mt_nodes_find(stack, parent, frame);
    }
    return node;
}
