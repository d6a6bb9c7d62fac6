#!/usr/bin/env bash
# A private, real Slurm (munge, slurmctld, slurmd) on this machine, for trying and testing the batch scripts.
#
#   eval "$(slurm/local-cluster.sh start)"     starts it and sets SLURM_CONF in this shell
#   sinfo; sbatch slurm/job.sbatch ...
#   slurm/local-cluster.sh status
#   slurm/local-cluster.sh stop                cancels its jobs, stops its three daemons, removes its folder
#
# Everything lives in one folder and on free ports of the loopback interface, so that a Slurm of the site is neither
# read nor disturbed. Works as root and as an ordinary user. DARKFIELD_CLUSTER names the folder (short: it holds
# sockets), DARKFIELD_CLUSTER_CPUS the CPUs the node claims (4, whatever the machine has, so that four ranks fit).
set -euo pipefail

folder=${DARKFIELD_CLUSTER:-/tmp/darkfield-cluster-$(id -u)}
cpus=${DARKFIELD_CLUSTER_CPUS:-4}
node=$(hostname -s)
PATH=$PATH:/usr/sbin:/sbin

say() { echo "local-cluster: $*" >&2; }
fail() { say "$*"; exit 1; }

need() {
    local tool missing=()
    for tool in munged slurmctld slurmd srun sbatch scontrol; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ ${#missing[@]} -eq 0 ] || fail "not found: ${missing[*]} (Debian: apt install slurm-wlm munge)"
}

# A port that nobody listens on, from the one given upwards.
free_port() {
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

# The process of a pid file, if it lives and still is that daemon: pids are used again.
alive() {
    local pid
    pid=$(cat "$folder/$1.pid" 2>/dev/null) && [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] && echo "$pid"
}

write_configuration() {
    local user control daemon memory
    user=$(id -un)
    control=$(free_port 27817)
    daemon=$(free_port $((control + 1)))
    memory=$(awk '/^MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
    cat >"$folder/slurm.conf" <<CONF
ClusterName=darkfield
SlurmctldHost=$node(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$control
SlurmdPort=$daemon
AuthType=auth/munge
# Munge's socket, and credentials that expire in seconds: a requeued job starts again only after that time.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
SchedulerParameters=sched_interval=2,sched_min_interval=0
SchedulerType=sched/backfill
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
PlugStackConfig=$folder/plugstack.conf
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=10
MinJobAge=3600
# The node may claim more CPUs than the machine has.
SlurmdParameters=config_overrides
NodeName=$node NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    : >"$folder/plugstack.conf"
    # Named, so that slurmd does not look for a systemd it may not be allowed to talk to.
    echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf"
}

start_munge() {
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
    munged --force --num-threads=2 --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" \
        2>>"$folder/munged.log" || { cat "$folder/munged.log" >&2; fail "munged did not start"; }
}

# Wait up to $1 seconds until the rest of the line succeeds.
wait_for() {
    local tries=$(($1 * 5))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.2
    done
}
node_idle() { [ "$(sinfo -h -o %t 2>/dev/null)" = idle ]; }

start() {
    need
    if alive slurmctld >/dev/null && alive slurmd >/dev/null; then
        say "already running in $folder"
    else
        stop quietly
        mkdir -p "$folder/state" "$folder/spool"
        chmod 755 "$folder"
        write_configuration
        start_munge
        export SLURM_CONF=$folder/slurm.conf
        slurmctld -c -f "$SLURM_CONF" >&2 || fail "slurmctld did not start: see $folder/slurmctld.log"
        slurmd -c -f "$SLURM_CONF" -N "$node" >&2 || fail "slurmd did not start: see $folder/slurmd.log"
        if ! wait_for 30 node_idle; then
            tail -n 5 "$folder/slurmctld.log" "$folder/slurmd.log" >&2
            fail "the node did not become idle in 30 s; logs are in $folder"
        fi
        say "running in $folder: node $node with $cpus CPUs"
    fi
    echo "export SLURM_CONF=$folder/slurm.conf"
}

# Stops the daemons of this folder by their own pids, never by name.
stop() {
    local daemon pid
    if [ "${1:-}" != quietly ] && alive slurmctld >/dev/null; then
        SLURM_CONF=$folder/slurm.conf scancel --user="$(id -un)" 2>/dev/null || true
        sleep 1
    fi
    for daemon in slurmd slurmctld munged; do
        pid=$(alive "$daemon") || continue
        kill "$pid" 2>/dev/null || true
        wait_for 10 test ! -e "/proc/$pid" || kill -KILL "$pid" 2>/dev/null || true
    done
    rm -rf "$folder"
    [ "${1:-}" = quietly ] || say "stopped"
}

status() {
    local daemon pid down=0
    for daemon in munged slurmctld slurmd; do
        if pid=$(alive "$daemon"); then echo "$daemon: running, pid $pid"; else echo "$daemon: down"; down=1; fi
    done
    [ "$down" = 1 ] || { SLURM_CONF=$folder/slurm.conf sinfo; SLURM_CONF=$folder/slurm.conf squeue; }
    return "$down"
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    status) status ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
