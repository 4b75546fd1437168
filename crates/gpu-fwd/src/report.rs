//! What the assembler says of a kernel, when asked with `--ptxas-options=-v`.

/// Resources of one kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The kernel's name, as it is mangled.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
    /// Bytes of registers written to memory because there are not enough of them.
    pub spill_stores: u32,
    /// Bytes of such registers read back.
    pub spill_loads: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u32,
    /// Whether the assembler ran asynchronous matrix products one after the other (C7510 and its like).
    pub serialised: bool,
}

impl Report {
    /// One for each kernel of a log, in its order.
    pub fn parse(log: &str) -> Vec<Self> {
        let mut reports: Vec<Self> = Vec::new();
        for line in log.lines() {
            if let Some(kernel) = between(line, "Compiling entry function '", "'") {
                reports.push(Self { kernel: kernel.to_owned(), ..Self::default() });
            }
            // Before the first kernel the log speaks of the module.
            let Some(report) = reports.last_mut() else { continue };
            if line.contains("bytes stack frame") {
                report.stack = number_before(line, " bytes stack frame");
                report.spill_stores = number_before(line, " bytes spill stores");
                report.spill_loads = number_before(line, " bytes spill loads");
            }
            if line.contains("Used ") && line.contains(" registers") {
                report.registers = number_before(line, " registers");
                report.shared = number_before(line, " bytes smem");
            }
            report.serialised |= line.contains("(C75") && line.contains("serialized");
        }
        reports
    }
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = &line[line.find(before)? + before.len()..];
    rest.find(after).map(|end| &rest[..end])
}

/// The number that stands before a word; 0 if there is none.
fn number_before(line: &str, word: &str) -> u32 {
    let Some(end) = line.find(word) else { return 0 };
    let head = &line[..end];
    let digits = head.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    head[digits..].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'tile_gemm' for 'sm_90a'
ptxas info    : Function properties for tile_gemm
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 58 registers, used 1 barriers, 1024 bytes smem
ptxas info    : Compiling entry function '_Z5greedyPf' for 'sm_90a'
ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources
ptxas         .     2304 bytes stack frame, 2252 bytes spill stores, 1804 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
";

    #[test]
    fn every_kernel_of_a_log_is_read() {
        let [plain, greedy] = &Report::parse(LOG)[..] else { panic!("two kernels") };
        let expected =
            Report { kernel: "tile_gemm".into(), registers: 58, shared: 1024, ..Report::default() };
        assert_eq!(*plain, expected);
        assert_eq!((greedy.stack, greedy.spill_stores, greedy.spill_loads), (2304, 2252, 1804));
        assert!(greedy.serialised && !plain.serialised);
        assert_eq!((greedy.registers, greedy.shared), (255, 0));
    }

    #[test]
    fn a_log_without_kernels_reports_nothing() {
        assert_eq!(Report::parse("ptxas info    : 0 bytes gmem\n"), []);
    }
}
