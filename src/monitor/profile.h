/*
 * profile.h: internal: what the sampler (sampler_hosted.c) takes and the profile (profile_hosted.c)
 * makes of it.
 */
#ifndef RINGFOLD_MONITOR_PROFILE_H
#define RINGFOLD_MONITOR_PROFILE_H

#include "monitor/vm.h"

/* One look at the vCPU's thread, innermost frame first. A host address, or PROFILE_GUEST | EIP,
 * with PROFILE_USER at CPL 3, where translated code runs. */
#define PROFILE_GUEST (1ull << 63)
#define PROFILE_USER (1ull << 62)
#define PROFILE_FRAMES 30
struct profile_sample {
    u32 frames;
    u32 eip; /* the guest's, as struct cpu has it: where no translated frame says better */
    bool user;
    u64 frame[PROFILE_FRAMES];
};

struct mon_profile;
struct mon_profile *mon_profile_create(const char *path, const char *symbols,
                                       struct mon_error *err);
/* Where the next sample goes, NULL while there is no room; then it counts. Async-signal-safe. */
struct profile_sample *mon_profile_next_sigsafe(struct mon_profile *profile);
void mon_profile_took_sigsafe(struct mon_profile *profile);
/* Sums up what was taken. */
void mon_profile_drain(struct mon_profile *profile);
/* Writes the folded stacks. False with a reason. */
bool mon_profile_write(struct mon_profile *profile, struct mon_error *err);
void mon_profile_free(struct mon_profile *profile);

#endif
