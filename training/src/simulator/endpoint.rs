//! A simulated pod: c slots behind a bounded FCFS queue, or processor sharing over c cores, at a speed that changes.
//!
//! Both disciplines are kept by one virtual clock that runs at the rate at which *each* request in service progresses: a
//! request that enters service at clock V with work w is done when the clock shows V + w. A change of speed (or, under
//! processor sharing, of company) bends the clock and leaves the finish marks alone, so only the endpoint's next
//! completion has to be rescheduled.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::time::NEVER;

/// How requests share an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discipline {
    /// First come, first served by one of the slots; the rest wait.
    Fcfs,
    /// All are served at once and share the slots equally.
    ProcessorSharing,
}

/// What an endpoint is, apart from what happens to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EndpointSpec {
    /// How requests share it.
    pub discipline: Discipline,
    /// Requests served at once (FCFS) or cores (processor sharing); at least 1.
    pub slots: u32,
    /// Requests that may be inside at once; more are answered 503 at once.
    pub room: u32,
    /// Work done per slot and unit of time when nothing is wrong with it.
    pub speed: f64,
}

impl EndpointSpec {
    /// Work done per unit of time with all slots busy and nothing wrong.
    pub fn capacity(&self) -> f64 {
        self.speed * f64::from(self.slots)
    }
}

/// Errors that an endpoint answers instead of doing its work.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Gray {
    /// Share of requests that fail, 0..=1.
    pub share: f64,
    /// When the error comes: after this long without taking a slot, or (`None`) after the work was done.
    pub fast_ns: Option<u64>,
}

/// Counters and integrals that a pod's metrics are made of. Counters only rise; a restart sets them to zero.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Meter {
    /// Requests answered, errors included.
    pub completed: u64,
    /// Sum of the times that they were inside, in nanoseconds.
    pub duration_ns: f64,
    /// Integral of busy slots, in slot-nanoseconds.
    pub busy_ns: f64,
    /// Integral of CPU time that busy slots got, in nanoseconds: time stolen by neighbours is not in it.
    pub cpu_ns: f64,
    /// Integral of requests inside, in request-nanoseconds.
    pub inside_ns: f64,
}

/// A pod in motion.
#[derive(Debug, Clone)]
pub struct Endpoint {
    spec: EndpointSpec,
    /// Factor on the speed: interference below 1, 0 for a pause.
    factor: f64,
    up: bool,
    gray: Gray,
    clock_ns: f64,
    at_ns: u64,
    /// Finish marks on the virtual clock (their bits order like the numbers) with the request.
    service: BinaryHeap<Reverse<(u64, u32)>>,
    waiting: VecDeque<(f64, u32)>,
    assigned: u32,
    meter: Meter,
    started_ns: u64,
}

impl Endpoint {
    /// An idle endpoint at time 0.
    pub fn new(spec: EndpointSpec) -> Self {
        Self {
            spec,
            factor: 1.0,
            up: true,
            gray: Gray::default(),
            clock_ns: 0.0,
            at_ns: 0,
            service: BinaryHeap::new(),
            waiting: VecDeque::new(),
            assigned: 0,
            meter: Meter::default(),
            started_ns: 0,
        }
    }

    /// What it is.
    pub fn spec(&self) -> &EndpointSpec {
        &self.spec
    }

    /// Work done per slot and unit of time right now.
    #[inline]
    pub fn speed(&self) -> f64 {
        self.spec.speed * self.factor
    }

    /// What its speed is of its own: 1 when nothing is wrong, 0 while it stands still.
    #[inline]
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Whether it accepts connections.
    #[inline]
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Its errors.
    #[inline]
    pub fn gray(&self) -> Gray {
        self.gray
    }

    /// Requests inside, waiting or served.
    #[inline]
    pub fn inside(&self) -> u32 {
        (self.service.len() + self.waiting.len()) as u32
    }

    /// Requests being served; under processor sharing at most one a core counts.
    #[inline]
    pub fn busy(&self) -> u32 {
        (self.service.len() as u32).min(self.spec.slots)
    }

    /// Requests inside or on their way here.
    #[inline]
    pub fn assigned(&self) -> u32 {
        self.assigned
    }

    /// When its process started.
    pub fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// Metrics as of `now_ns`.
    pub fn meter(&mut self, now_ns: u64) -> Meter {
        self.advance(now_ns);
        self.meter
    }

    /// A proxy has sent a request this way.
    #[inline]
    pub fn assign(&mut self) {
        self.assigned += 1;
    }

    /// A request that was sent this way is over, or was refused.
    #[inline]
    pub fn unassign(&mut self) {
        self.assigned -= 1;
    }

    /// A request arrives with so much work. False: there is no room.
    #[inline]
    pub fn offer(&mut self, now_ns: u64, request: u32, work_ns: f64) -> bool {
        if self.inside() >= self.spec.room {
            return false;
        }
        self.advance(now_ns);
        if self.spec.discipline == Discipline::ProcessorSharing || (self.service.len() as u32) < self.spec.slots {
            self.serve(request, work_ns);
        } else {
            self.waiting.push_back((work_ns, request));
        }
        true
    }

    /// When the next request is done if nothing changes; [`NEVER`] when none is or the pod stands still.
    #[inline]
    pub fn completes_at_ns(&self) -> u64 {
        let rate = self.rate();
        match self.service.peek() {
            Some(Reverse((mark, _))) if rate > 0.0 => {
                let left_ns = ((f64::from_bits(*mark) - self.clock_ns) / rate).max(0.0).ceil();
                self.at_ns.saturating_add(left_ns as u64)
            }
            _ => NEVER,
        }
    }

    /// Takes out the request that is done at `now_ns`, the time that [`Self::completes_at_ns`] said.
    #[inline]
    pub fn complete(&mut self, now_ns: u64) -> Option<u32> {
        self.advance(now_ns);
        let Reverse((mark, request)) = self.service.pop()?;
        // Completions fall on whole nanoseconds: never let the clock stay behind a request that is done.
        self.clock_ns = self.clock_ns.max(f64::from_bits(mark));
        if let Some((work_ns, next)) = self.waiting.pop_front() {
            self.serve(next, work_ns);
        }
        if self.service.is_empty() {
            // An idle clock may start over; this keeps it precise in long runs.
            self.clock_ns = 0.0;
        }
        Some(request)
    }

    /// The request that gets the next slot that is left.
    #[inline]
    pub fn next_in_line(&self) -> Option<u32> {
        self.waiting.front().map(|(_, request)| *request)
    }

    /// Work that is left of each request in service at `now_ns`, in nanoseconds at speed 1, in no particular order. Truth for omniscient
    /// bounds.
    pub fn left_in_service_ns(&self, now_ns: u64) -> impl Iterator<Item = (f64, u32)> {
        let passed_ns = (now_ns - self.at_ns) as f64;
        let clock_ns = self.clock_ns + passed_ns * self.rate();
        self.service.iter().map(move |Reverse((mark, request))| ((f64::from_bits(*mark) - clock_ns).max(0.0), *request))
    }

    /// Work of each request that waits, in nanoseconds at speed 1, in the order of their turns. Truth for omniscient bounds.
    pub fn waiting_ns(&self) -> impl Iterator<Item = (f64, u32)> {
        self.waiting.iter().copied()
    }

    /// Accounts for a request that was answered after being inside for so long.
    #[inline]
    pub fn answered(&mut self, inside_ns: u64) {
        self.meter.completed += 1;
        self.meter.duration_ns += inside_ns as f64;
    }

    /// Changes the factor on the speed.
    pub fn set_factor(&mut self, now_ns: u64, factor: f64) {
        self.advance(now_ns);
        self.factor = factor.max(0.0);
    }

    /// Changes its errors.
    pub fn set_gray(&mut self, gray: Gray) {
        self.gray = gray;
    }

    /// Dies: everything inside is lost (and returned), and connections are refused until [`Self::start`].
    pub fn crash(&mut self, now_ns: u64) -> Vec<u32> {
        self.advance(now_ns);
        self.up = false;
        let mut lost: Vec<u32> = self.service.drain().map(|Reverse((_, request))| request).collect();
        // A heap drains in arbitrary, though repeatable, order; sorted is easier to reason about.
        lost.sort_unstable();
        lost.extend(self.waiting.drain(..).map(|(_, request)| request));
        lost
    }

    /// Starts anew: empty, with counters at zero.
    pub fn start(&mut self, now_ns: u64) {
        self.advance(now_ns);
        self.up = true;
        self.meter = Meter::default();
        self.started_ns = now_ns;
    }

    #[inline]
    fn serve(&mut self, request: u32, work_ns: f64) {
        self.service.push(Reverse(((self.clock_ns + work_ns).to_bits(), request)));
    }

    /// Rate at which the virtual clock runs: progress of each request in service.
    #[inline]
    fn rate(&self) -> f64 {
        let served = self.service.len() as u32;
        match self.spec.discipline {
            Discipline::ProcessorSharing if served > self.spec.slots => {
                self.speed() * f64::from(self.spec.slots) / f64::from(served)
            }
            _ => self.speed(),
        }
    }

    #[inline]
    fn advance(&mut self, now_ns: u64) {
        debug_assert!(now_ns >= self.at_ns, "time runs backwards");
        let passed_ns = (now_ns - self.at_ns) as f64;
        if !self.service.is_empty() {
            self.clock_ns += passed_ns * self.rate();
            let busy_ns = passed_ns * f64::from(self.busy());
            self.meter.busy_ns += busy_ns;
            self.meter.cpu_ns += busy_ns * self.factor.min(1.0);
            self.meter.inside_ns += passed_ns * f64::from(self.inside());
        }
        self.at_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(discipline: Discipline, slots: u32) -> Endpoint {
        Endpoint::new(EndpointSpec { discipline, slots, room: 3, speed: 1.0 })
    }

    #[test]
    fn a_slot_serves_in_order_and_a_full_queue_refuses() {
        let mut pod = endpoint(Discipline::Fcfs, 1);
        assert!(pod.offer(0, 1, 100.0));
        assert!(pod.offer(0, 2, 10.0));
        assert!(pod.offer(0, 3, 10.0));
        assert!(!pod.offer(0, 4, 10.0));
        assert_eq!(pod.completes_at_ns(), 100);
        assert_eq!(pod.complete(100), Some(1));
        assert_eq!(pod.completes_at_ns(), 110);
        assert_eq!(pod.complete(110), Some(2));
        assert_eq!(pod.complete(120), Some(3));
        assert_eq!(pod.completes_at_ns(), NEVER);
    }

    #[test]
    fn sharing_slows_everyone_and_departures_speed_the_rest_up() {
        let mut pod = endpoint(Discipline::ProcessorSharing, 1);
        pod.offer(0, 1, 100.0);
        pod.offer(50, 2, 100.0);
        // 50 left of the first at half speed.
        assert_eq!(pod.completes_at_ns(), 150);
        assert_eq!(pod.complete(150), Some(1));
        assert_eq!(pod.completes_at_ns(), 200);
    }

    #[test]
    fn a_change_of_speed_moves_the_completion_and_a_pause_holds_it() {
        let mut pod = endpoint(Discipline::Fcfs, 1);
        pod.offer(0, 1, 100.0);
        pod.set_factor(50, 0.25);
        assert_eq!(pod.completes_at_ns(), 250);
        pod.set_factor(90, 0.0);
        assert_eq!(pod.completes_at_ns(), NEVER);
        pod.set_factor(1090, 2.0);
        assert_eq!(pod.completes_at_ns(), 1110);
    }

    #[test]
    fn a_crash_loses_what_was_inside_and_a_start_counts_from_zero() {
        let mut pod = endpoint(Discipline::Fcfs, 1);
        pod.offer(0, 1, 100.0);
        pod.offer(0, 2, 100.0);
        pod.answered(5);
        assert_eq!(pod.crash(10), vec![1, 2]);
        assert!(!pod.is_up());
        pod.start(20);
        assert_eq!(pod.meter(30), Meter::default());
        assert_eq!(pod.started_ns(), 20);
    }

    #[test]
    fn meters_integrate_what_is_busy_and_what_is_inside() {
        let mut pod = endpoint(Discipline::Fcfs, 1);
        pod.offer(0, 1, 100.0);
        pod.offer(0, 2, 100.0);
        pod.complete(100);
        let meter = pod.meter(150);
        assert_eq!((meter.busy_ns, meter.inside_ns), (150.0, 250.0));
    }
}
