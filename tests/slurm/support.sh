# Sourced by the Slurm tests: a private cluster of this test's own.
source "$(dirname "${BASH_SOURCE[0]}")/../support/cases.sh"
if ! PATH=$PATH:/usr/sbin command -v slurmctld >/dev/null || ! PATH=$PATH:/usr/sbin command -v munged >/dev/null; then
    skip "$script" "Slurm is not installed (Debian: apt install slurm-wlm munge)"
    exit 0
fi
export DARKFIELD_CLUSTER=/tmp/darkfield-slurm-$$
undo="'$root/slurm/local-cluster.sh' stop"
if ! cluster=$(slurm/local-cluster.sh start); then bad slurm.start "the private cluster did not start"; exit 1; fi
eval "$cluster"

# The value of one field of `scontrol show job`.
job_field() { scontrol show job "$1" 2>/dev/null | grep -oE "\b$2=[^ ]*" | head -n 1 | cut -d= -f2; }

# wait_for_job ID SECONDS: until it has ended; its last state on stdout.
wait_for_job() {
    local until=$(($(date +%s) + $2)) state
    while :; do
        state=$(job_field "$1" JobState)
        case $state in
            '' | COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL | OUT_OF_MEMORY | BOOT_FAIL | DEADLINE)
                echo "${state:-unknown}"
                return ;;
        esac
        [ "$(date +%s)" -lt "$until" ] || { echo "still $state"; return; }
        sleep 0.5
    done
}
