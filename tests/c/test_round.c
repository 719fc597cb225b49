/* SPDX-License-Identifier: Apache-2.0 */
/* A round has room for one event of each kind and one of each link; of more, each is counted and none written. */
#include "round.h"

#include "check.h"

int main(void)
{
	struct tb_actions actions = {0};
	struct round round = {.out = &actions, .now = 7};
	tb_u32 room = TB_E_REOPENED + TB_LINKS;

	for (tb_u32 kind = TB_E_HEARD; kind <= TB_E_REOPENED; kind++)
		tell(&round, (enum tb_event_kind)kind, TB_C_NONE, kind, 0);
	for (unsigned link = 0; link < TB_LINKS; link++)
		tell_link(&round, TB_E_LINK_SILENT, link, 0);
	CHECK(actions.events == room && actions.untold == 0);
	for (unsigned link = 0; link < TB_LINKS; link++)
		CHECK(actions.event[TB_E_REOPENED + link].link == link);

	while (actions.events < TB_STEP_EVENTS)
		tell(&round, TB_E_LATE, TB_C_NONE, 0, 0);
	CHECK(actions.untold == 0);
	tell(&round, TB_E_LATE, TB_C_NONE, 1, 0);
	tell_link(&round, TB_E_LINK_HEARD, 5, 0);
	CHECK(actions.events == TB_STEP_EVENTS && actions.untold == 2);
	CHECK(actions.event[TB_STEP_EVENTS - 1].link == (room < TB_STEP_EVENTS ? 0 : TB_LINKS - 1));
	return 0;
}
